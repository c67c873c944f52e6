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
)

// This file alone knows how the claims lie in etcd and what etcd's errors
// mean. The layout:
//
//	/prefixproxy/<pool>/names/<name>                   the owner, under the lease of the claim
//	/prefixproxy/<pool>/tenures/<name>/<start>-<lease>  a record: see there
//	/prefixproxy/<pool>/data_loss                      who saw it, under a lease of one TTL

func poolKey(pool string) string    { return "/prefixproxy/" + pool + "/" }
func namesKey(pool string) string   { return poolKey(pool) + "names/" }
func tenuresKey(pool string) string { return poolKey(pool) + "tenures/" }
func markerKey(pool string) string  { return poolKey(pool) + "data_loss" }

// A store is what a Holder asks of etcd. Each call's error may be a Loss: what
// the call found out about the claim, or DataLoss, which any may find.
type store interface {
	// grant makes a new lease: its ID, the TTL that was granted, and the term.
	grant(ctx context.Context) (lease, error)

	// claim claims a name under a lease: the one of own if that lives or is
	// free, and otherwise the first free one. own may be nil. A lease has one
	// name at most: if the outcome of a claim is unknown, the same claim tells
	// it. The tenure is recorded to begin at from, or goes on when a claim is
	// taken over. The error is ErrNoFreeName when all are taken, Expired when
	// the lease is gone.
	claim(ctx context.Context, under lease, own *memory, from time.Time) (claimed, error)

	// isGone says whether a lease is gone.
	isGone(ctx context.Context, lease clientv3.LeaseID) (bool, error)

	// renew renews the lease of c and looks whether the name is still ours.
	renew(ctx context.Context, c *Claim) error

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
	// and the oldest ones beyond tenuresPerName.
	prune(ctx context.Context, name string, before time.Time) error

	// awaitFree returns when a name was freed since the last claim.
	awaitFree(ctx context.Context) error

	// mark leaves the marker of data loss for one TTL.
	mark(ctx context.Context) error

	// failed takes note that a request ended with err, which began at a moment:
	// the next one goes to another member if that may help. It returns err with
	// its cause.
	failed(err error, begun time.Time) error

	// version returns what the member that is asked runs.
	version(ctx context.Context) (string, error)
}

// A route is a store's way to one member after the other: a *Client.
type route interface {
	failed(err error, begun time.Time) error
	version(ctx context.Context) (string, error)
}

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
	client *clientv3.Client
	route  route
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

func newEtcdStore(c *clientv3.Client, route route, leases pb.LeaseClient, cfg Config) *etcdStore {
	return &etcdStore{client: c, route: route, stream: renewStream{client: leases}, cfg: cfg}
}

func (s *etcdStore) failed(err error, begun time.Time) error { return s.route.failed(err, begun) }

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

func (s *etcdStore) claim(ctx context.Context, under lease, own *memory, from time.Time) (claimed, error) {
	s.looked = 0
	turns, err := s.turns(ctx, under.id)
	if err != nil {
		return claimed{}, err
	}
	ours := s.rungsOf(own)
	if len(turns) == 0 && len(ours) > 0 {
		turns = [][]string{nil} // a restart asks for its own name even when all are taken
	}
	for _, names := range turns {
		c, err := s.climb(ctx, under, append(ours, ifAnyFree(names, namesKey(s.cfg.Pool))...), from)
		if !errors.Is(err, ErrNoFreeName) {
			return c, err
		}
		ours = nil
	}
	return claimed{}, ErrNoFreeName
}

// turns returns what to ask for in one transaction after the other: all names
// when there are no more than a transaction holds. Otherwise it reads what is
// taken, and each turn begins with a free name and runs on from there. A name
// under lease counts as free: an earlier request has claimed it, and climb
// finds that out.
func (s *etcdStore) turns(ctx context.Context, lease clientv3.LeaseID) ([][]string, error) {
	if len(s.cfg.Names) <= namesPerTxn {
		return [][]string{s.cfg.Names}, nil
	}
	prefix := namesKey(s.cfg.Pool)
	resp, err := s.client.Get(ctx, prefix, clientv3.WithPrefix()) // keys alone would come without their leases
	if err != nil {
		return nil, fmt.Errorf("read which names are taken: %w", err)
	}
	if err := s.saw(ctx, resp.Header); err != nil {
		return nil, err
	}
	s.looked = resp.Header.Revision
	taken := make(map[string]bool, len(resp.Kvs))
	for _, kv := range resp.Kvs {
		taken[strings.TrimPrefix(string(kv.Key), prefix)] = clientv3.LeaseID(kv.Lease) != lease
	}
	var turns [][]string
	for rest := s.cfg.Names; len(rest) > 0; {
		if taken[rest[0]] {
			rest = rest[1:]
			continue
		}
		n := min(len(rest), namesPerTxn)
		turns, rest = append(turns, rest[:n]), rest[n:]
	}
	return turns, nil
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
//	If(no name is under lease) Then(marker?, ladder) Else(marker?, names)
//
// and each rung of the ladder is If(it holds) Then(read the name's tenures, put
// the name, put the record of its tenure).
//
// The condition is there because a request whose answer was lost is sent again,
// by us and sometimes by the client. It reads the names of the pool, and costs
// nothing of the ladder's depth.
func (s *etcdStore) climb(ctx context.Context, under lease, rungs []rung, from time.Time) (claimed, error) {
	marker := clientv3.OpGet(markerKey(s.cfg.Pool), clientv3.WithKeysOnly())
	names := clientv3.OpGet(namesKey(s.cfg.Pool), clientv3.WithPrefix())
	claim := func(r rung) clientv3.Op {
		t := s.tenureOf(r, under, from)
		return clientv3.OpTxn(nil, []clientv3.Op{
			s.readEarlier(r.name),
			clientv3.OpPut(namesKey(s.cfg.Pool)+r.name, s.cfg.Owner, clientv3.WithLease(under.id)),
			clientv3.OpPut(s.recordKey(t), t.value()),
		}, nil)
	}
	resp, err := s.client.Txn(ctx).
		If(clientv3.Compare(clientv3.LeaseValue(namesKey(s.cfg.Pool)), "!=", under.id).WithPrefix()).
		Then(marker, ladder(rungs, claim)).
		Else(marker, names).
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
	if s.looked == 0 {
		s.looked = resp.Header.Revision
	}
	if !resp.Succeeded {
		c, err := s.readBack(ctx, under, rungs, resp.Responses[1].GetResponseRange().Kvs)
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
// lease. It is among names.
func (s *etcdStore) readBack(ctx context.Context, under lease, rungs []rung, names []*mvccpb.KeyValue) (claimed, error) {
	i := slices.IndexFunc(names, func(kv *mvccpb.KeyValue) bool { return clientv3.LeaseID(kv.Lease) == under.id })
	if i < 0 {
		return claimed{}, fmt.Errorf("claim a name: etcd says that lease %x has one, and shows none", int64(under.id))
	}
	c := claimed{key: string(names[i].Key), revision: names[i].CreateRevision}
	c.name = strings.TrimPrefix(c.key, namesKey(s.cfg.Pool))
	c.takenOver = names[i].Version > 1 && slices.ContainsFunc(rungs, func(r rung) bool {
		return r.takeOver != nil && r.name == c.name && r.takeOver.Revision == c.revision
	})
	ts, cut, err := s.tenures(ctx, c.name)
	if err != nil {
		return claimed{}, err
	}
	c.tenure, c.cut = Tenure{Name: c.name, Owner: s.cfg.Owner, Lease: under.id}, cut
	if own := slices.IndexFunc(ts, func(t Tenure) bool { return t.Lease == under.id }); own >= 0 {
		c.tenure = ts[own]
	}
	c.earlier = slices.DeleteFunc(ts, func(t Tenure) bool { return t.id == c.tenure.id || t.created > names[i].ModRevision })
	return c, nil
}

func (s *etcdStore) recordKey(t Tenure) string {
	return tenuresKey(s.cfg.Pool) + t.Name + "/" + t.id
}

// readEarlier is the operation that reads the last tenures of name.
func (s *etcdStore) readEarlier(name string) clientv3.Op {
	return clientv3.OpGet(tenuresKey(s.cfg.Pool)+name+"/", clientv3.WithPrefix(),
		clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend), clientv3.WithLimit(earlierTenures))
}

func (s *etcdStore) tenures(ctx context.Context, name string) (ts []Tenure, cut bool, err error) {
	resp, err := s.client.Do(ctx, s.readEarlier(name))
	if err != nil {
		return nil, false, fmt.Errorf("read who held %s: %w", name, err)
	}
	return readTenures(resp.Get().Kvs, tenuresKey(s.cfg.Pool)), resp.Get().More, nil
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
		more = stands(by.Key, by.Revision, by.LeaseID)
	}
	if _, err := s.client.Do(ctx, s.endOp(t, more...)); err != nil {
		return fmt.Errorf("record the end of a tenure of %s: %w", t.Name, err)
	}
	return nil
}

// release frees the name and records the end as one: nobody sees the name free
// and its tenure lasting, or the other way round.
func (s *etcdStore) release(ctx context.Context, c *Claim, t Tenure) error {
	ops := []clientv3.Op{clientv3.OpTxn(stands(c.Key, c.Revision, c.LeaseID), []clientv3.Op{clientv3.OpDelete(c.Key)}, nil)}
	if t.id != "" {
		ops = append(ops, s.endOp(t))
	}
	if _, err := s.client.Txn(ctx).Then(ops...).Commit(); err != nil {
		return fmt.Errorf("release %s: %w", c.Name, err)
	}
	return nil
}

// prune reads at most tenuresPerName keys, and deletes by one range.
func (s *etcdStore) prune(ctx context.Context, name string, before time.Time) error {
	first := tenuresKey(s.cfg.Pool) + name + "/"
	resp, err := s.client.Txn(ctx).Then(
		clientv3.OpGet(first, clientv3.WithRange(fmt.Sprintf("%s%013d", first, keyMilli(before))),
			clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend), clientv3.WithLimit(1)),
		clientv3.OpGet(first, clientv3.WithPrefix(), clientv3.WithCountOnly()),
	).Commit()
	if err != nil {
		return fmt.Errorf("count the tenures of %s: %w", name, err)
	}
	var end string // of the range to delete, which is without it
	if old := resp.Responses[0].GetResponseRange().Kvs; len(old) > 0 {
		end = string(old[0].Key) // began before, and all before it ended before
		if t, ok := readTenure(old[0], tenuresKey(s.cfg.Pool)); !ok || !t.open() && t.To.Before(before) {
			end += "\x00"
		}
	}
	if over := resp.Responses[1].GetResponseRange().Count - tenuresPerName; over > 0 {
		oldest, err := s.client.Get(ctx, first, clientv3.WithPrefix(), clientv3.WithKeysOnly(), clientv3.WithLimit(min(over, tenuresPerName)))
		if err != nil {
			return fmt.Errorf("read the oldest tenures of %s: %w", name, err)
		}
		if n := len(oldest.Kvs); n > 0 {
			end = max(end, string(oldest.Kvs[n-1].Key)+"\x00")
		}
	}
	if end == "" {
		return nil
	}
	if _, err := s.client.Delete(ctx, first, clientv3.WithRange(end)); err != nil {
		return fmt.Errorf("prune the tenures of %s: %w", name, err)
	}
	return nil
}

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
	ttl, err := s.stream.renew(ctx, c.LeaseID, func() { resp, readErr = s.client.Get(ctx, c.Key) })
	if readErr == nil && resp != nil {
		readErr = s.stillOurs(ctx, c, resp, err == nil && ttl <= 0)
	}
	if _, lost := errors.AsType[Loss](readErr); lost {
		return readErr
	}
	if err != nil {
		return fmt.Errorf("renew the lease of %s: %w", c.Name, rpctypes.Error(err))
	}
	if readErr != nil {
		return fmt.Errorf("read who holds %s: %w", c.Name, readErr)
	}
	return nil
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
	case resp.Kvs[0].CreateRevision != c.Revision:
		return Lost
	case !s.isOurs(resp.Kvs[0], c.LeaseID):
		return Overwritten
	}
	return nil
}

func (s *etcdStore) stopRenewing() { s.stream.close() }

func (s *etcdStore) revoke(ctx context.Context, lease clientv3.LeaseID) error {
	_, err := s.client.Revoke(ctx, lease)
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

func (s *etcdStore) version(ctx context.Context) (string, error) { return s.route.version(ctx) }

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
