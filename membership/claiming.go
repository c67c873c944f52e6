package membership

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/prefixproxy/prefixproxy/membership/pool"
	"github.com/prefixproxy/prefixproxy/membership/state"
)

// asking is what a claim asks for: the name of own if that lives or is free, and
// otherwise the first free one of names.
type asking struct {
	names []string
	own   *state.Claim // nil: none
	from  time.Time    // when the tenure is recorded to begin; one that is taken over goes on
	look  bool         // first whether any is free: most likely none is
}

// without returns a without a name.
func (a asking) without(name string) asking {
	a.names = slices.DeleteFunc(slices.Clone(a.names), func(n string) bool { return n == name })
	if a.own != nil && a.own.Name == name {
		a.own = nil
	}
	return a
}

// claimed is the result of a claim.
type claimed struct {
	revision  int64  // at which the key was created
	term      uint64 // of etcd then, or a later one
	takenOver bool   // it was our own living claim
	marked    bool   // the marker of data loss was there

	tenure  pool.Tenure   // of the name; without an id if its record is gone
	earlier []pool.Tenure // the name's last ones before it, in the order of time
	cut     bool          // there were more before these
}

// claim claims a name under a lease. A lease has one name at most: if the outcome of a
// claim is unknown, the same claim tells it. The error is ErrNoFreeName when all are taken,
// Expired when the lease is gone, errNotOurs when it is no good.
func (s *store) claim(ctx context.Context, under lease, ask asking) (claimed, error) {
	s.looked = 0
	turns, err := s.turns(ctx, under.id, ask)
	if err != nil {
		return claimed{}, err
	}
	ours := s.rungsOf(ask.own)
	if len(turns) == 0 && len(ours) > 0 {
		turns = [][]string{nil} // a restart asks for its own name even when all are taken
	}
	for _, names := range turns {
		c, err := s.climb(ctx, under, append(ours, ifAnyFree(names, pool.NamesKey(s.cfg.Pool))...), ask.from)
		if !errors.Is(err, ErrNoFreeName) {
			return c, err
		}
		ours = nil
	}
	return claimed{}, ErrNoFreeName
}

// turns returns what to ask for in successive transactions: all names, if one transaction can
// hold them, since nobody knows beforehand which is free. Otherwise it reads which are taken, and
// asks for those that are free. A name under lease counts as free: an earlier request claimed it,
// and climb will find that out.
func (s *store) turns(ctx context.Context, lease clientv3.LeaseID, ask asking) ([][]string, error) {
	if len(ask.names) == 0 {
		return nil, nil
	}
	if len(ask.names) <= namesPerTxn && !ask.look {
		return [][]string{ask.names}, nil
	}
	taken := make(map[string]bool)
	revision, err := s.names(ctx, func(name string, kv *mvccpb.KeyValue) { taken[name] = clientv3.LeaseID(kv.Lease) != lease })
	if err != nil {
		return nil, fmt.Errorf("read which names are taken: %w", err)
	}
	s.looked = revision
	free := slices.DeleteFunc(slices.Clone(ask.names), func(name string) bool { return taken[name] })
	// What a transaction asks for costs etcd its square, be it refused or not: so
	// the first asks for no more than those few that others may have taken since,
	// or than the others leave.
	most := (len(ask.names) + namesPerTxn - 1) / namesPerTxn
	first := min(max(len(free)-namesPerTxn*(most-1), firstFew), len(free))
	turns := slices.Collect(slices.Chunk(free[first:], namesPerTxn))
	if first > 0 {
		turns = slices.Insert(turns, 0, free[:first])
	}
	return turns, nil
}

// firstFew is how many free names of a long list are asked for at first.
const firstFew = 16

// names calls each for what stands at the names of the pool. It returns the revision of the first
// answer.
func (s *store) names(ctx context.Context, each func(name string, kv *mvccpb.KeyValue)) (revision int64, err error) {
	header, err := pool.Reader(s.client.Do).Names(ctx, s.cfg.Pool, each)
	if err != nil {
		return 0, err
	}
	return header.Revision, s.saw(ctx, header)
}

// rungsOf returns the rungs of a restart: take over the claim that lives, or
// claim the name that we had.
func (s *store) rungsOf(own *state.Claim) []rung {
	if own == nil {
		return nil
	}
	key := pool.NamesKey(s.cfg.Pool) + own.Name
	if own.Lease == 0 {
		return []rung{ifFree(own.Name, key)}
	}
	return []rung{ifOurs(own, key), ifFree(own.Name, key)}
}

// tenureOf returns the tenure that begins, or goes on, when r is claimed under
// a lease.
func (s *store) tenureOf(r rung, under lease, from time.Time) pool.Tenure {
	t := pool.Tenure{
		Name: r.name, Owner: s.cfg.Owner, Lease: under.id, From: from,
		TTL: under.ttl, Term: under.term, ID: pool.RecordID(from, under.id),
	}
	if r.takeOver != nil {
		if from, id, ok := r.takeOver.Tenure(); ok {
			t.From, t.ID = from, id
		}
	}
	return t
}

// climb asks for the first of rungs that holds. It is one transaction:
//
//	If(no name is under lease) Then(marker?, ladder) Else(marker?)
//
// and each rung of the ladder is If(it holds) Then(read the name's tenures, put
// the name, put the record of its tenure).
//
// The condition is there because a request whose answer was lost is sent again,
// by us and sometimes by the client. It reads the names of the pool, and costs
// nothing of the ladder's depth.
func (s *store) climb(ctx context.Context, under lease, rungs []rung, from time.Time) (claimed, error) {
	marker := clientv3.OpGet(pool.MarkerKey(s.cfg.Pool), clientv3.WithKeysOnly())
	claim := func(r rung) clientv3.Op {
		t := s.tenureOf(r, under, from)
		return clientv3.OpTxn(nil, []clientv3.Op{
			pool.GetLastTenures(s.cfg.Pool, r.name),
			clientv3.OpPut(pool.NamesKey(s.cfg.Pool)+r.name, s.cfg.Owner, clientv3.WithLease(under.id)),
			clientv3.OpPut(t.Key(s.cfg.Pool), t.Value()),
		}, nil)
	}
	resp, err := s.client.Txn(ctx).
		If(clientv3.Compare(clientv3.LeaseValue(pool.NamesKey(s.cfg.Pool)), "!=", under.id).WithPrefix()).
		Then(marker, ladder(rungs, claim)).
		Else(marker).
		Commit()
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return claimed{}, Expired
	}
	if err != nil {
		return claimed{}, fmt.Errorf("claim a name: %w", err)
	}
	if err := s.saw(ctx, resp.Header); err != nil {
		return claimed{}, err
	}
	s.looked = cmp.Or(s.looked, resp.Header.Revision)
	marked := len(resp.Responses[0].GetResponseRange().Kvs) > 0
	if !resp.Succeeded {
		c, err := s.readBack(ctx, under, rungs)
		c.term, c.marked = resp.Header.RaftTerm, marked
		return c, err
	}
	i, answer, ok := climbed(resp.Responses[1].GetResponseTxn())
	if !ok {
		return claimed{}, ErrNoFreeName
	}
	r := rungs[i]
	c := claimed{revision: resp.Header.Revision, term: resp.Header.RaftTerm, marked: marked, tenure: s.tenureOf(r, under, from)}
	if r.takeOver != nil {
		c.revision, c.takenOver = r.takeOver.Revision, true
	}
	c.tenure.Revision = resp.Header.Revision
	earlier := answer.GetResponseTxn().Responses[0].GetResponseRange()
	c.earlier, c.cut = pool.ReadTenures(s.cfg.Pool, earlier.Kvs), earlier.More
	c.earlier = slices.DeleteFunc(c.earlier, func(t pool.Tenure) bool { return t.ID == c.tenure.ID })
	return c, nil
}

// readBack returns what an earlier request for the same rungs claimed under a lease. Anybody may
// have put something under it, too: ours is a name of the list with our owner. The error is
// errNotOurs when there is none such, be it because the lease is gone meanwhile.
func (s *store) readBack(ctx context.Context, under lease, rungs []rung) (claimed, error) {
	var name string
	var own *mvccpb.KeyValue
	_, err := s.names(ctx, func(n string, kv *mvccpb.KeyValue) {
		if s.isOurs(kv, under.id) && slices.Contains(s.cfg.Names, n) {
			name, own = n, kv
		}
	})
	if err != nil {
		return claimed{}, fmt.Errorf("read what was claimed under lease %x: %w", int64(under.id), err)
	}
	if own == nil {
		return claimed{}, errNotOurs
	}
	ts, cut, err := s.tenures(ctx, name)
	if err != nil {
		return claimed{}, err
	}
	c := claimed{revision: own.CreateRevision, tenure: pool.Tenure{Name: name, Owner: s.cfg.Owner, Lease: under.id}, cut: cut}
	c.takenOver = own.Version > 1 && slices.ContainsFunc(rungs, func(r rung) bool {
		return r.takeOver != nil && r.name == name && r.takeOver.Revision == c.revision
	})
	if i := slices.IndexFunc(ts, func(t pool.Tenure) bool { return t.Lease == under.id }); i >= 0 {
		c.tenure = ts[i]
	}
	c.earlier = slices.DeleteFunc(ts, func(t pool.Tenure) bool { return t.ID == c.tenure.ID || t.Created > own.ModRevision })
	return c, nil
}

// errNotOurs is the error of a claim under a lease that already has a name which isn't ours:
// somebody else put it there.
var errNotOurs = errors.New("somebody else has put a name under our lease")
