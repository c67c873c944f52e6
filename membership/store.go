package membership

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/prefixproxy/prefixproxy/membership/etcd"
)

// This file alone knows how the claims lie in etcd and what etcd's errors
// mean. The layout:
//
//	/prefixproxy/<pool>/names/<name>                   the owner, under the lease of the claim
//	/prefixproxy/<pool>/tenures/<name>/<start>-<lease>  a record: see there
//	/prefixproxy/<pool>/waiting/<lease>                the owner of a host that finds no free name, under that lease
//	/prefixproxy/<pool>/waiting/<lease>/since          since when, in RFC 3339
//	/prefixproxy/<pool>/released/<name>                the lease that is asked to let go, under a lease of one TTL
//	/prefixproxy/<pool>/data_loss                      who saw it, under a lease of one TTL

func poolKey(pool string) string     { return "/prefixproxy/" + pool + "/" }
func namesKey(pool string) string    { return poolKey(pool) + "names/" }
func tenuresKey(pool string) string  { return poolKey(pool) + "tenures/" }
func waitingKey(pool string) string  { return poolKey(pool) + "waiting/" }
func releasedKey(pool string) string { return poolKey(pool) + "released/" }
func markerKey(pool string) string   { return poolKey(pool) + "data_loss" }

// A store is what a Holder asks of etcd. Each call's error may be a Loss: what
// the call found out about the claim, or DataLoss, which any may find.
type store interface {
	route

	// grant makes a new lease: its ID, the TTL that was granted, and the term.
	grant(ctx context.Context) (lease, error)

	// claim claims a name under a lease. A lease has one name at most: if the
	// outcome of a claim is unknown, the same claim tells it. The error is
	// ErrNoFreeName when all are taken, Expired when the lease is gone, errNotOurs
	// when it is no good.
	claim(ctx context.Context, under lease, ask asking) (claimed, error)

	// stay renews a lease under which no name was free, and shows that its holder
	// waits for one; leave ends that show, from any goroutine. stay's error is
	// Expired when the lease is gone.
	stay(ctx context.Context, lease clientv3.LeaseID) error
	leave(ctx context.Context, lease clientv3.LeaseID) error

	// isGone says whether a lease is gone.
	isGone(ctx context.Context, lease clientv3.LeaseID) (bool, error)

	// renew renews the lease of c and looks whether the name is still ours. The
	// error is errAsked when somebody asks us to let go of it.
	renew(ctx context.Context, c *Claim) error

	// look looks whether the name of c is still ours.
	look(ctx context.Context, c *Claim) error

	// stopRenewing ends what renew keeps open from one call to the next.
	stopRenewing()

	// revoke ends the lease, and so the claim under it. That it had ended
	// already is no error.
	revoke(ctx context.Context, lease clientv3.LeaseID) error

	// release deletes the name of c and records the end of its tenure, as one.
	// Each is left as it is if it is not ours any more.
	release(ctx context.Context, c *Claim, ended Tenure) error

	// tenures returns the last tenures of name, in the order of time; cut says
	// that there were more before. Like the two below it may be called from any
	// goroutine.
	tenures(ctx context.Context, name string) (ts []Tenure, cut bool, err error)

	// recordEnd records the end of a tenure, unless its record was written to
	// since it was read. The end of another's is only for the name's holder to
	// write: by is its claim, or nil if the tenure was our own.
	recordEnd(ctx context.Context, ended Tenure, by *Claim) error

	// prune deletes the records of name's tenures that ended before a moment,
	// and the oldest ones beyond tenuresPerName, some at a time.
	prune(ctx context.Context, name string, before time.Time) error

	// awaitFree returns when a name was freed since the last claim. It may run
	// beside stay.
	awaitFree(ctx context.Context) error

	// mark leaves the marker of data loss for one TTL.
	mark(ctx context.Context) error
}

// A route is a store's way to one member after the other: a *etcd.Client.
type route interface {
	// Failed takes note that a request ended with err, which began at a moment:
	// the next one goes to another member if that may help. It returns err with
	// its cause.
	Failed(err error, begun time.Time) error

	// Unreachable returns why there is no connection; nil while there is one, or while
	// nobody knows yet.
	Unreachable() error

	// Version returns what the member that is asked runs.
	Version(ctx context.Context) (string, error)
}

// asking is what a claim asks for: the name of own if that lives or is free, and
// otherwise the first free one of names.
type asking struct {
	names []string
	own   *memory   // nil: none
	from  time.Time // when the tenure is recorded to begin; one that is taken over goes on
	look  bool      // first whether any is free: most likely none is
}

// without returns a without a name.
func (a asking) without(name string) asking {
	a.names = slices.DeleteFunc(slices.Clone(a.names), func(n string) bool { return n == name })
	if a.own != nil && a.own.Name == name {
		a.own = nil
	}
	return a
}

// errAsked is the error of a renewal that found the wish for our name.
var errAsked = errors.New("somebody asks us to let go of the name")

// claimed is the outcome of a claim.
type claimed struct {
	name, key string
	revision  int64  // at which the key was created
	term      uint64 // of etcd then, or a later one
	takenOver bool   // it was our own living claim
	marked    bool   // the marker of data loss was there

	tenure  Tenure   // without an id if its record is gone
	earlier []Tenure // the name's last ones before it, in the order of time
	cut     bool     // there were more before these
}

// earlierTenures is how many of a name's tenures a claim looks back on: a line
// that is older than these has no name.
const earlierTenures = 256

// etcdStore is the store that is etcd. Run's goroutine owns it.
type etcdStore struct {
	route
	client *clientv3.Client
	stream renewStream
	cfg    Config
	last   seen  // by the last linearizable answer
	looked int64 // the revision as of which the last claim began to look
}

// What was seen of etcd.
type seen struct {
	cluster, member, term uint64
	revision              int64
}

func storeOf(c *etcd.Client, cfg Config) *etcdStore {
	return newEtcdStore(c.Client, c, pb.NewLeaseClient(c.ActiveConnection()), cfg)
}

func newEtcdStore(c *clientv3.Client, route route, leases pb.LeaseClient, cfg Config) *etcdStore {
	return &etcdStore{client: c, route: route, stream: renewStream{client: leases}, cfg: cfg}
}

// saw takes note of the header of a linearizable answer. Etcd has lost data, or
// is another one, when its revision or its raft term runs backwards or its id
// changes.
func (s *etcdStore) saw(ctx context.Context, h *pb.ResponseHeader) error {
	before := s.last
	s.last = seen{h.ClusterId, h.MemberId, h.RaftTerm, h.Revision}
	switch {
	case h.Revision < before.revision || before.cluster != 0 && h.ClusterId != before.cluster:
		return DataLoss
	case h.RaftTerm >= before.term:
		return nil
	case h.MemberId != before.member && !s.termFell(ctx, before.term):
		s.last.term = before.term
		return nil
	}
	return DataLoss
}

// termFell says whether the term is lower than it was. A member that has caught
// up by a snapshot names an older one than it knows, until it has applied
// something: a lease that nobody needs.
func (s *etcdStore) termFell(ctx context.Context, before uint64) bool {
	resp, err := s.client.Grant(ctx, 1)
	return err == nil && resp.RaftTerm < before
}

func (s *etcdStore) grant(ctx context.Context) (lease, error) {
	resp, err := s.client.Grant(ctx, int64(s.cfg.TTL/time.Second))
	if err != nil {
		return lease{}, fmt.Errorf("grant a lease of %v: %w", s.cfg.TTL, err)
	}
	return lease{id: resp.ID, ttl: time.Duration(resp.TTL) * time.Second, term: resp.RaftTerm}, nil
}

// isGone is not true of a lease that has run out and was not revoked yet: etcd
// answers with a negative TTL to both, and with the TTL that was granted to that.
func (s *etcdStore) isGone(ctx context.Context, lease clientv3.LeaseID) (bool, error) {
	resp, err := s.client.TimeToLive(ctx, lease)
	if err != nil {
		return false, fmt.Errorf("ask for the time to live of lease %x: %w", int64(lease), err)
	}
	return resp.TTL < 0 && resp.GrantedTTL == 0, nil
}

func (s *etcdStore) claim(ctx context.Context, under lease, ask asking) (claimed, error) {
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
		c, err := s.climb(ctx, under, append(ours, ifAnyFree(names, namesKey(s.cfg.Pool))...), ask.from)
		if !errors.Is(err, ErrNoFreeName) {
			return c, err
		}
		ours = nil
	}
	return claimed{}, ErrNoFreeName
}

// turns returns what to ask for in one transaction after the other: all names
// when there are no more than a transaction holds, since the free one is not known
// before. Otherwise it reads what is taken, and asks for what is free. A name
// under lease counts as free: an earlier request has claimed it, and climb finds
// that out.
func (s *etcdStore) turns(ctx context.Context, lease clientv3.LeaseID, ask asking) ([][]string, error) {
	if len(ask.names) == 0 {
		return nil, nil
	}
	if len(ask.names) <= namesPerTxn && !ask.look {
		return [][]string{ask.names}, nil
	}
	taken, err := s.taken(ctx, lease)
	if err != nil {
		return nil, fmt.Errorf("read which names are taken: %w", err)
	}
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

// taken returns which names are taken, but for those under lease.
func (s *etcdStore) taken(ctx context.Context, lease clientv3.LeaseID) (map[string]bool, error) {
	names := under(namesKey(s.cfg.Pool))
	taken := make(map[string]bool)
	names.limit *= 2
	for more := true; more; {
		page, err := reader(s.client.Do).page(ctx, names)
		if err == nil {
			err = s.saw(ctx, page.header)
		}
		if err != nil {
			return nil, err
		}
		s.looked = cmp.Or(s.looked, page.header.Revision)
		for _, kv := range page.kvs {
			taken[strings.TrimPrefix(string(kv.Key), namesKey(s.cfg.Pool))] = clientv3.LeaseID(kv.Lease) != lease
		}
		names, more = page.rest, page.more
	}
	return taken, nil
}

// rungsOf returns the rungs of a restart: take over the claim that lives, or
// claim the name that we had.
func (s *etcdStore) rungsOf(own *memory) []rung {
	if own == nil {
		return nil
	}
	key := namesKey(s.cfg.Pool) + own.Name
	if own.Lease == 0 {
		return []rung{ifFree(own.Name, key)}
	}
	return []rung{ifOurs(own, key), ifFree(own.Name, key)}
}

// tenureOf returns the tenure that begins, or goes on, when r is claimed under
// a lease.
func (s *etcdStore) tenureOf(r rung, under lease, from time.Time) Tenure {
	t := Tenure{
		Name: r.name, Owner: s.cfg.Owner, Lease: under.id, From: from,
		ttl: under.ttl, term: under.term, id: recordID(from, under.id),
	}
	if r.takeOver != nil {
		t.From, t.id = r.takeOver.goesOn(t)
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
func (s *etcdStore) climb(ctx context.Context, under lease, rungs []rung, from time.Time) (claimed, error) {
	marker := clientv3.OpGet(markerKey(s.cfg.Pool), clientv3.WithKeysOnly())
	claim := func(r rung) clientv3.Op {
		t := s.tenureOf(r, under, from)
		return clientv3.OpTxn(nil, []clientv3.Op{
			lastTenures(s.cfg.Pool, r.name).op(),
			clientv3.OpPut(namesKey(s.cfg.Pool)+r.name, s.cfg.Owner, clientv3.WithLease(under.id)),
			clientv3.OpPut(s.recordKey(t), t.value()),
		}, nil)
	}
	resp, err := s.client.Txn(ctx).
		If(clientv3.Compare(clientv3.LeaseValue(namesKey(s.cfg.Pool)), "!=", under.id).WithPrefix()).
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
	if !resp.Succeeded {
		c, err := s.readBack(ctx, under, rungs)
		c.term = resp.Header.RaftTerm
		c.marked = len(resp.Responses[0].GetResponseRange().Kvs) > 0
		return c, err
	}
	i, answer, ok := climbed(resp.Responses[1].GetResponseTxn())
	if !ok {
		return claimed{}, ErrNoFreeName
	}
	r := rungs[i]
	c := claimed{
		name: r.name, key: namesKey(s.cfg.Pool) + r.name,
		revision: resp.Header.Revision, term: resp.Header.RaftTerm,
		marked: len(resp.Responses[0].GetResponseRange().Kvs) > 0,
		tenure: s.tenureOf(r, under, from),
	}
	if r.takeOver != nil {
		c.revision, c.takenOver = r.takeOver.Revision, true
	}
	c.tenure.revision = resp.Header.Revision
	earlier := answer.GetResponseTxn().Responses[0].GetResponseRange()
	c.earlier, c.cut = readTenures(earlier.Kvs, tenuresKey(s.cfg.Pool)), earlier.More
	c.earlier = slices.DeleteFunc(c.earlier, func(t Tenure) bool { return t.id == c.tenure.id })
	return c, nil
}

// readBack returns what an earlier request for the same rungs claimed under a
// lease. Anybody may have put something under it, too: ours is a name of the list
// with our owner. The error is errNotOurs when there is none such.
func (s *etcdStore) readBack(ctx context.Context, under lease, rungs []rung) (claimed, error) {
	attached, err := s.client.TimeToLive(ctx, under.id, clientv3.WithAttachedKeys())
	if errors.Is(err, rpctypes.ErrPermissionDenied) { // we may read all that we write
		return claimed{}, errNotOurs
	}
	if err != nil {
		return claimed{}, fmt.Errorf("read what was claimed under lease %x: %w", int64(under.id), err)
	}
	var own *mvccpb.KeyValue
	for _, key := range attached.Keys {
		name, ok := strings.CutPrefix(string(key), namesKey(s.cfg.Pool))
		if !ok || own != nil || !slices.Contains(s.cfg.Names, name) {
			continue
		}
		resp, err := s.client.Get(ctx, string(key))
		switch {
		case etcd.IsTooLong(err):
			continue
		case err != nil:
			return claimed{}, fmt.Errorf("read what was claimed under lease %x: %w", int64(under.id), err)
		}
		if len(resp.Kvs) > 0 && s.isOurs(resp.Kvs[0], under.id) {
			own = resp.Kvs[0]
		}
	}
	if own == nil {
		return claimed{}, errNotOurs
	}
	c := claimed{key: string(own.Key), revision: own.CreateRevision}
	c.name = strings.TrimPrefix(c.key, namesKey(s.cfg.Pool))
	c.takenOver = own.Version > 1 && slices.ContainsFunc(rungs, func(r rung) bool {
		return r.takeOver != nil && r.name == c.name && r.takeOver.Revision == c.revision
	})
	ts, cut, err := s.tenures(ctx, c.name)
	if err != nil {
		return claimed{}, err
	}
	c.tenure, c.cut = Tenure{Name: c.name, Owner: s.cfg.Owner, Lease: under.id}, cut
	if i := slices.IndexFunc(ts, func(t Tenure) bool { return t.Lease == under.id }); i >= 0 {
		c.tenure = ts[i]
	}
	c.earlier = slices.DeleteFunc(ts, func(t Tenure) bool { return t.id == c.tenure.id || t.created > own.ModRevision })
	return c, nil
}

// errNotOurs is the error of a claim under a lease that has a name which is not
// ours: somebody has put it there.
var errNotOurs = errors.New("somebody else has put a name under our lease")

// isAnswer says whether err is what etcd has answered, and no failure to.
func isAnswer(err error) bool {
	_, lost := errors.AsType[Loss](err)
	return lost || errors.Is(err, ErrNoFreeName) || errors.Is(err, errNotOurs) || errors.Is(err, errAsked)
}

func (s *etcdStore) recordKey(t Tenure) string {
	return tenuresKey(s.cfg.Pool) + t.Name + "/" + t.id
}

// lastTenures is where the last tenures of name are.
func lastTenures(pool, name string) keySpan {
	s := under(tenuresKey(pool) + name + "/")
	s.limit, s.last, s.by = earlierTenures, true, clientv3.SortByCreateRevision
	return s
}

func (s *etcdStore) tenures(ctx context.Context, name string) (ts []Tenure, cut bool, err error) {
	page, err := reader(s.client.Do).page(ctx, lastTenures(s.cfg.Pool, name))
	if err != nil {
		return nil, false, fmt.Errorf("read who held %s: %w", name, err)
	}
	return readTenures(page.kvs, tenuresKey(s.cfg.Pool)), page.more, nil
}

// endOp is the operation that records the end of t, if the record is as it was
// when we wrote or read it, and more holds.
func (s *etcdStore) endOp(t Tenure, more ...clientv3.Cmp) clientv3.Op {
	key := s.recordKey(t)
	return clientv3.OpTxn(
		append(more, clientv3.Compare(clientv3.ModRevision(key), "=", t.revision)),
		[]clientv3.Op{clientv3.OpPut(key, t.value())}, nil)
}

func (s *etcdStore) recordEnd(ctx context.Context, t Tenure, by *Claim) error {
	var more []clientv3.Cmp
	if by != nil {
		more = stands(by.key, by.revision, by.lease)
	}
	if _, err := s.client.Do(ctx, s.endOp(t, more...)); err != nil {
		return fmt.Errorf("record the end of a tenure of %s: %w", t.Name, err)
	}
	return nil
}

// release frees the name and records the end as one: nobody sees the name free
// and its tenure lasting, or the other way round.
func (s *etcdStore) release(ctx context.Context, c *Claim, t Tenure) error {
	ops := []clientv3.Op{clientv3.OpTxn(stands(c.key, c.revision, c.lease), []clientv3.Op{clientv3.OpDelete(c.key)}, nil)}
	if t.id != "" {
		ops = append(ops, s.endOp(t))
	}
	if _, err := s.client.Txn(ctx).Then(ops...).Commit(); err != nil {
		return fmt.Errorf("release %s: %w", c.name, err)
	}
	return nil
}

// prune reads and deletes some of the oldest at a time: the next claim goes on.
func (s *etcdStore) prune(ctx context.Context, name string, before time.Time) error {
	all := tenuresKey(s.cfg.Pool) + name + "/"
	resp, err := s.client.Txn(ctx).Then(
		clientv3.OpGet(all, clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByCreateRevision, clientv3.SortAscend), clientv3.WithLimit(prunedAtOnce)),
		clientv3.OpGet(all, clientv3.WithPrefix(), clientv3.WithCountOnly()),
	).Commit()
	if err != nil {
		return fmt.Errorf("count the tenures of %s: %w", name, err)
	}
	over := resp.Responses[1].GetResponseRange().Count - tenuresPerName
	var deletes []clientv3.Op
	for i, kv := range resp.Responses[0].GetResponseRange().Kvs {
		t, ok := readTenure(kv, tenuresKey(s.cfg.Pool))
		if old := !ok || !t.open() && t.To.Before(before); !old && int64(i) >= over {
			break
		}
		deletes = append(deletes, clientv3.OpDelete(string(kv.Key)))
	}
	if len(deletes) == 0 {
		return nil
	}
	if _, err := s.client.Txn(ctx).Then(deletes...).Commit(); err != nil {
		return fmt.Errorf("prune the tenures of %s: %w", name, err)
	}
	return nil
}

const prunedAtOnce = 120

// isOurs says whether what stands at a key was put by us, under lease.
func (s *etcdStore) isOurs(kv *mvccpb.KeyValue, lease clientv3.LeaseID) bool {
	return clientv3.LeaseID(kv.Lease) == lease && string(kv.Value) == s.cfg.Owner
}

// renew reads the key even when the lease is gone, because a lost lease may be
// the first that is seen of lost data; and what it reads counts even when the
// renewal fails.
func (s *etcdStore) renew(ctx context.Context, c *Claim) error {
	var resp *clientv3.GetResponse
	var readErr error
	ttl, err := s.stream.renew(ctx, c.lease, func() { resp, readErr = s.client.Get(ctx, c.key) })
	if readErr == nil && resp != nil {
		readErr = s.stillOurs(ctx, c, resp, err == nil && ttl <= 0)
	}
	if _, lost := errors.AsType[Loss](readErr); lost {
		return readErr
	}
	if err != nil {
		return fmt.Errorf("renew the lease of %s: %w", c.name, rpctypes.Error(err))
	}
	if readErr != nil {
		return fmt.Errorf("read who holds %s: %w", c.name, readErr)
	}
	if s.isAsked(ctx, c) {
		return errAsked
	}
	return nil
}

func (s *etcdStore) look(ctx context.Context, c *Claim) error {
	resp, err := s.client.Get(ctx, c.key)
	if err != nil {
		return fmt.Errorf("read who holds %s: %w", c.name, err)
	}
	return s.stillOurs(ctx, c, resp, false)
}

// isAsked says whether somebody asks us to let go of c. The member compares, by what it
// knows itself: that costs the others nothing, and us no more than the answer, whatever
// stands there.
func (s *etcdStore) isAsked(ctx context.Context, c *Claim) bool {
	resp, err := s.client.Txn(ctx).
		If(clientv3.Compare(clientv3.Value(releasedKey(s.cfg.Pool)+c.name), "=", leaseHex(c.lease))).
		Commit()
	return err == nil && resp.Succeeded
}

// stillOurs says what has become of c, by what stands at its key; expired says
// that its lease is gone.
func (s *etcdStore) stillOurs(ctx context.Context, c *Claim, resp *clientv3.GetResponse, expired bool) error {
	if err := s.saw(ctx, resp.Header); err != nil {
		return err
	}
	switch {
	case expired:
		return Expired
	case len(resp.Kvs) == 0:
		return Deleted
	case resp.Kvs[0].CreateRevision != c.revision:
		return Lost
	case !s.isOurs(resp.Kvs[0], c.lease):
		return Overwritten
	}
	return nil
}

func (s *etcdStore) stay(ctx context.Context, lease clientv3.LeaseID) error {
	key := waitingKey(s.cfg.Pool) + leaseHex(lease)
	var resp *clientv3.GetResponse
	var readErr error
	ttl, err := s.stream.renew(ctx, lease, func() { resp, readErr = s.client.Get(ctx, key, clientv3.WithCountOnly()) })
	if err = cmp.Or(err, readErr); err != nil {
		return fmt.Errorf("keep waiting: %w", rpctypes.Error(err))
	}
	if err := s.saw(ctx, resp.Header); err != nil {
		return err
	}
	if ttl <= 0 {
		return Expired
	}
	if resp.Count > 0 {
		return nil
	}
	_, err = s.client.Txn(ctx).Then(
		clientv3.OpPut(key, s.cfg.Owner, clientv3.WithLease(lease)),
		clientv3.OpPut(key+"/since", time.Now().UTC().Format(recordTime), clientv3.WithLease(lease)),
	).Commit()
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return Expired
	}
	if err != nil {
		return fmt.Errorf("show that we wait: %w", err)
	}
	return nil
}

func (s *etcdStore) leave(ctx context.Context, lease clientv3.LeaseID) error {
	key := waitingKey(s.cfg.Pool) + leaseHex(lease)
	if _, err := s.client.Txn(ctx).Then(clientv3.OpDelete(key), clientv3.OpDelete(key+"/since")).Commit(); err != nil {
		return fmt.Errorf("show that we do not wait any more: %w", err)
	}
	return nil
}

func (s *etcdStore) stopRenewing() { s.stream.close() }

func (s *etcdStore) revoke(ctx context.Context, lease clientv3.LeaseID) error {
	_, err := s.client.Revoke(ctx, lease)
	if errors.Is(err, rpctypes.ErrPermissionDenied) {
		return nil // somebody else's key is under it: it runs out
	}
	if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("revoke lease %x: %w", int64(lease), err)
	}
	return nil
}

// herdSpread is over how long those who wait for a name try for one that was
// freed: the first takes it, and most others see that before they have asked.
const herdSpread = 250 * time.Millisecond

func (s *etcdStore) awaitFree(ctx context.Context) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx)) // a member cut off from the others says so
	defer cancel()
	changes := s.client.Watch(ctx, namesKey(s.cfg.Pool), clientv3.WithPrefix(), clientv3.WithRev(s.looked+1))
	free := make(map[string]bool)
	var turn <-chan time.Time // nil: nothing was freed
	for {
		select {
		case resp, open := <-changes:
			if err := cmp.Or(resp.Err(), ctx.Err()); err != nil {
				return fmt.Errorf("watch for a free name: %w", err)
			}
			if !open {
				return fmt.Errorf("watch for a free name: %w", errWatchEnded)
			}
			s.noteFree(free, resp.Events)
			if turn == nil && len(free) > 0 {
				turn = time.After(rand.N(herdSpread))
			}
		case <-turn:
			if len(free) > 0 {
				return nil
			}
			turn = nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// noteFree brings up to date which names of our list are free.
func (s *etcdStore) noteFree(free map[string]bool, events []*clientv3.Event) {
	for _, ev := range events {
		name := strings.TrimPrefix(string(ev.Kv.Key), namesKey(s.cfg.Pool))
		switch {
		case ev.Type == clientv3.EventTypePut:
			delete(free, name)
		case slices.Contains(s.cfg.Names, name):
			free[name] = true
		}
	}
}

var errWatchEnded = errors.New("etcd ended it")

func (s *etcdStore) mark(ctx context.Context) error {
	its, err := s.grant(ctx)
	if err != nil {
		return err
	}
	resp, err := s.client.Put(ctx, markerKey(s.cfg.Pool), s.cfg.Owner, clientv3.WithLease(its.id))
	if err != nil {
		return fmt.Errorf("mark the pool: %w", err)
	}
	return s.saw(ctx, resp.Header)
}

// isOld says whether an etcd of this version renews leases after their end, or
// has holes in the access checks of transactions and watches. Both were mended in
// these, and are not before 3.4.
func isOld(version string) bool {
	var v [3]int
	if n, _ := fmt.Sscanf(version, "%d.%d.%d", &v[0], &v[1], &v[2]); n < 3 {
		return false
	}
	for _, mended := range [][3]int{{3, 4, 44}, {3, 5, 33}, {3, 6, 14}, {3, 7, 1}} {
		if v[0] == mended[0] && v[1] == mended[1] {
			return v[2] < mended[2]
		}
	}
	return slices.Compare(v[:], []int{3, 4, 0}) < 0
}
