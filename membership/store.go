package membership

import (
	"cmp"
	"context"
	"errors"
	"fmt"
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
//	/prefixproxy/<pool>/names/<name>   the owner, under the lease of the claim
//	/prefixproxy/<pool>/data_loss      who saw it, under a lease of one TTL

func poolKey(pool string) string   { return "/prefixproxy/" + pool + "/" }
func namesKey(pool string) string  { return poolKey(pool) + "names/" }
func markerKey(pool string) string { return poolKey(pool) + "data_loss" }

// A store is what a Holder asks of etcd. Each call's error may be a Loss: what
// the call found out about the claim, or DataLoss, which any may find.
type store interface {
	// grant makes a new lease and returns the TTL that was granted.
	grant(ctx context.Context) (clientv3.LeaseID, time.Duration, error)

	// claim claims a name under lease: the one of own if that lives or is
	// free, and otherwise the first free one. own may be nil. A lease has one
	// name at most: if the outcome of a claim is unknown, the same claim tells
	// it. The error is ErrNoFreeName when all are taken, Expired when the
	// lease is gone.
	claim(ctx context.Context, lease clientv3.LeaseID, own *memory) (claimed, error)

	// renew renews the lease of c and looks whether the name is still ours.
	renew(ctx context.Context, c *Claim) error

	// stopRenewing ends what renew keeps open from one call to the next.
	stopRenewing()

	// revoke ends the lease, and so the claim under it. That it had ended
	// already is no error.
	revoke(ctx context.Context, lease clientv3.LeaseID) error

	// awaitFree returns when a name was freed since the last claim.
	awaitFree(ctx context.Context) error

	// mark leaves the marker of data loss for one TTL.
	mark(ctx context.Context) error

	// oldServers returns a sentence for each server that is too old for
	// comfort.
	oldServers(ctx context.Context) []string
}

// claimed is the outcome of a claim.
type claimed struct {
	name, key string
	revision  int64 // at which the key was created
	takenOver bool  // it was our own living claim
	marked    bool  // the marker of data loss was there
}

// etcdStore is the store that is etcd. Run's goroutine owns it.
type etcdStore struct {
	client *clientv3.Client
	stream renewStream
	cfg    Config
	keys   []string // of cfg.Names, in their order

	revision int64 // the highest one that etcd answered with
	looked   int64 // the revision as of which the last claim began to look
}

func newEtcdStore(c *clientv3.Client, cfg Config) *etcdStore {
	keys := make([]string, len(cfg.Names))
	for i, name := range cfg.Names {
		keys[i] = namesKey(cfg.Pool) + name
	}
	return &etcdStore{
		client: c,
		stream: renewStream{client: pb.NewLeaseClient(c.ActiveConnection())},
		cfg:    cfg,
		keys:   keys,
	}
}

// saw takes note of the revision of a linearizable answer, which never runs
// backwards but when etcd has lost data.
func (s *etcdStore) saw(h *pb.ResponseHeader) error {
	before := s.revision
	s.revision = h.Revision
	if h.Revision < before {
		return DataLoss
	}
	return nil
}

func (s *etcdStore) grant(ctx context.Context) (clientv3.LeaseID, time.Duration, error) {
	resp, err := s.client.Grant(ctx, int64(s.cfg.TTL/time.Second))
	if err != nil {
		return 0, 0, fmt.Errorf("grant a lease of %v: %w", s.cfg.TTL, err)
	}
	return resp.ID, time.Duration(resp.TTL) * time.Second, nil
}

func (s *etcdStore) claim(ctx context.Context, lease clientv3.LeaseID, own *memory) (claimed, error) {
	s.looked = 0
	turns, err := s.turns(ctx, lease)
	if err != nil {
		return claimed{}, err
	}
	ours := s.rungsOf(own)
	if len(turns) == 0 && len(ours) > 0 {
		turns = [][]string{nil} // a restart asks for its own name even when all are taken
	}
	for _, keys := range turns {
		c, err := s.climb(ctx, lease, append(ours, ifAnyFree(keys)...), own)
		if !errors.Is(err, ErrNoFreeName) {
			return c, err
		}
		ours = nil
	}
	return claimed{}, ErrNoFreeName
}

// turns returns what to ask for in one transaction after the other: all keys
// when there are no more than a transaction holds. Otherwise it reads what is
// taken, and each turn begins with a free key and runs on from there. A key
// under lease counts as free: an earlier request has claimed it, and climb
// finds that out.
func (s *etcdStore) turns(ctx context.Context, lease clientv3.LeaseID) ([][]string, error) {
	if len(s.keys) <= namesPerTxn {
		return [][]string{s.keys}, nil
	}
	resp, err := s.client.Get(ctx, namesKey(s.cfg.Pool), clientv3.WithPrefix()) // keys alone would come without their leases
	if err != nil {
		return nil, fmt.Errorf("read which names are taken: %w", err)
	}
	if err := s.saw(resp.Header); err != nil {
		return nil, err
	}
	s.looked = resp.Header.Revision
	taken := make(map[string]bool, len(resp.Kvs))
	for _, kv := range resp.Kvs {
		taken[string(kv.Key)] = clientv3.LeaseID(kv.Lease) != lease
	}
	var turns [][]string
	for rest := s.keys; len(rest) > 0; {
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
		return []rung{ifFree(key)}
	}
	return []rung{ifOurs(key, own.Revision, own.Lease), ifFree(key)}
}

// climb asks for the first of rungs that holds. It is one transaction:
//
//	If(no name is under lease) Then(marker?, ladder) Else(marker?, names)
//
// The condition is there because a request whose answer was lost is sent again,
// by us and sometimes by the client. It reads the names of the pool, and costs
// nothing of the ladder's depth.
func (s *etcdStore) climb(ctx context.Context, lease clientv3.LeaseID, rungs []rung, own *memory) (claimed, error) {
	marker := clientv3.OpGet(markerKey(s.cfg.Pool), clientv3.WithKeysOnly())
	names := clientv3.OpGet(namesKey(s.cfg.Pool), clientv3.WithPrefix())
	resp, err := s.client.Txn(ctx).
		If(clientv3.Compare(clientv3.LeaseValue(namesKey(s.cfg.Pool)), "!=", lease).WithPrefix()).
		Then(marker, ladder(rungs, s.cfg.Owner, lease)).
		Else(marker, names).
		Commit()
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return claimed{}, Expired
	}
	if err != nil {
		return claimed{}, fmt.Errorf("claim a name: %w", err)
	}
	if err := s.saw(resp.Header); err != nil {
		return claimed{}, err
	}
	if s.looked == 0 {
		s.looked = resp.Header.Revision
	}
	var c claimed
	if resp.Succeeded {
		i, ok := climbed(resp.Responses[1].GetResponseTxn())
		if !ok {
			return claimed{}, ErrNoFreeName
		}
		c.key, c.revision = rungs[i].key, cmp.Or(rungs[i].revision, resp.Header.Revision)
	} else {
		kvs := resp.Responses[1].GetResponseRange().Kvs
		i := slices.IndexFunc(kvs, func(kv *mvccpb.KeyValue) bool { return clientv3.LeaseID(kv.Lease) == lease })
		if i < 0 {
			return claimed{}, fmt.Errorf("claim a name: etcd says that lease %x has one, and shows none", int64(lease))
		}
		c.key, c.revision = string(kvs[i].Key), kvs[i].CreateRevision
	}
	c.name = strings.TrimPrefix(c.key, namesKey(s.cfg.Pool))
	c.takenOver = own != nil && own.Revision == c.revision
	c.marked = len(resp.Responses[0].GetResponseRange().Kvs) > 0
	return c, nil
}

// isOurs says whether what stands at a key was put by us, under lease.
func (s *etcdStore) isOurs(kv *mvccpb.KeyValue, lease clientv3.LeaseID) bool {
	return clientv3.LeaseID(kv.Lease) == lease && string(kv.Value) == s.cfg.Owner
}

// renew reads the key even when the lease is gone, because a lost lease may be
// the first that is seen of lost data.
func (s *etcdStore) renew(ctx context.Context, c *Claim) error {
	var resp *clientv3.GetResponse
	var readErr error
	ttl, err := s.stream.renew(ctx, c.LeaseID, func() { resp, readErr = s.client.Get(ctx, c.Key) })
	if err != nil {
		return fmt.Errorf("renew the lease of %s: %w", c.Name, rpctypes.Error(err))
	}
	if readErr != nil {
		return fmt.Errorf("read who holds %s: %w", c.Name, readErr)
	}
	if err := s.saw(resp.Header); err != nil {
		return err
	}
	switch {
	case ttl <= 0:
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

func (s *etcdStore) awaitFree(ctx context.Context) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx)) // a member cut off from the others says so
	defer cancel()
	frees := s.client.Watch(ctx, namesKey(s.cfg.Pool), clientv3.WithPrefix(), clientv3.WithFilterPut(), clientv3.WithRev(s.looked+1))
	for resp := range frees {
		if err := resp.Err(); err != nil {
			return fmt.Errorf("watch for a free name: %w", err)
		}
		for _, ev := range resp.Events {
			if slices.Contains(s.keys, string(ev.Kv.Key)) {
				return nil
			}
		}
	}
	return fmt.Errorf("watch for a free name: %w", cmp.Or(ctx.Err(), errWatchEnded))
}

var errWatchEnded = errors.New("etcd ended it")

func (s *etcdStore) mark(ctx context.Context) error {
	lease, _, err := s.grant(ctx)
	if err != nil {
		return err
	}
	resp, err := s.client.Put(ctx, markerKey(s.cfg.Pool), s.cfg.Owner, clientv3.WithLease(lease))
	if err != nil {
		return fmt.Errorf("mark the pool: %w", err)
	}
	return s.saw(resp.Header)
}

func (s *etcdStore) oldServers(ctx context.Context) []string {
	var old []string
	for _, endpoint := range s.client.Endpoints() {
		status, err := s.client.Status(ctx, endpoint)
		if err == nil && isOld(status.Version) {
			old = append(old, fmt.Sprintf("%s is etcd %q", endpoint, status.Version))
		}
	}
	return old
}

// isOld says whether an etcd of this version renews leases after their end and
// has a hole in the access checks of nested transactions. Both were mended in
// 3.5.28 and 3.6.9.
func isOld(version string) bool {
	var major, minor, patch int
	if n, _ := fmt.Sscanf(version, "%d.%d.%d", &major, &minor, &patch); n < 3 {
		return false
	}
	v := []int{major, minor, patch}
	if major == 3 && minor == 6 {
		return slices.Compare(v, []int{3, 6, 9}) < 0
	}
	return slices.Compare(v, []int{3, 5, 28}) < 0
}

// A Held is a name that somebody holds.
type Held struct {
	Name  string
	Owner string // as it may be shown to people: quoted and cut if it is no owner
}

// List returns who holds the names of a pool, in the order of names and as of
// one moment. What stands in etcd beside these names is left out.
func List(ctx context.Context, c *clientv3.Client, pool string, names []string) ([]Held, error) {
	resp, err := c.Get(ctx, namesKey(pool), clientv3.WithPrefix())
	if err != nil {
		return nil, fmt.Errorf("read who holds the names of pool %s: %w", pool, err)
	}
	owners := make(map[string]string, len(resp.Kvs))
	for _, kv := range resp.Kvs {
		owners[strings.TrimPrefix(string(kv.Key), namesKey(pool))] = showOwner(string(kv.Value))
	}
	held := make([]Held, 0, len(owners))
	for _, name := range names {
		if owner, ok := owners[name]; ok {
			held = append(held, Held{Name: name, Owner: owner})
		}
	}
	return held, nil
}

// remedy returns what a person must do about an error of etcd; "" when it may
// heal by itself.
func remedy(err error) string {
	switch {
	case errors.Is(err, rpctypes.ErrAuthFailed):
		return "check etcd.username and etcd.password_file"
	case errors.Is(err, rpctypes.ErrUserEmpty):
		return "this etcd wants a user: set etcd.username and etcd.password_file"
	case errors.Is(err, rpctypes.ErrPermissionDenied):
		return "grant the user's role readwrite on the prefix /prefixproxy/"
	case errors.Is(err, rpctypes.ErrNoSpace):
		return "etcd's database is full: compact and defragment it, then disarm its alarm"
	case errors.Is(err, rpctypes.ErrTooManyOps):
		return "set etcd's --max-txn-ops to 128 or more"
	}
	return ""
}
