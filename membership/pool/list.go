package pool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/prefixproxy/prefixproxy/internal/retry"
	"github.com/prefixproxy/prefixproxy/membership/etcd"
)

// A Standing is who holds a name.
type Standing struct {
	Owner    string           // as it may be shown to people: quoted and cut if it is no owner
	Lease    clientv3.LeaseID // 0: none, the name does not go by itself
	Revision int64            // at which it was claimed
}

func standingOf(kv *mvccpb.KeyValue) Standing {
	return Standing{Owner: ShowOwner(string(kv.Value)), Lease: clientv3.LeaseID(kv.Lease), Revision: kv.CreateRevision}
}

// A Waiter is a host that finds no free name.
type Waiter struct {
	Owner string
	Since time.Time // zero if it does not tell
}

// A LeaseState is what a lease tells about the holder of a name.
type LeaseState struct {
	// State is "held"; "suspended" when the lease was not renewed for so long that its holder
	// does not use the name; or "" if there is no such lease. Renewed is how long ago it was.
	State   string
	Renewed time.Duration
}

// Leases returns the states of leases, in one request for each.
func Leases(ctx context.Context, c *etcd.Client, leases []clientv3.LeaseID) ([]LeaseState, error) {
	states := make([]LeaseState, len(leases))
	asks, asking := errgroup.WithContext(ctx)
	asks.SetLimit(16)
	for i, lease := range leases {
		if lease == 0 {
			continue
		}
		asks.Go(func() error {
			return c.Try(asking, func(ctx context.Context) error {
				resp, err := c.TimeToLive(ctx, lease)
				if err == nil && resp.GrantedTTL > 0 {
					states[i] = stateOf(time.Duration(resp.GrantedTTL)*time.Second, time.Duration(max(resp.TTL, 0))*time.Second)
				}
				return err
			})
		})
	}
	if err := asks.Wait(); err != nil {
		return nil, fmt.Errorf("read what is left of the leases: %w", err)
	}
	return states, nil
}

// stateOf returns the state of a lease by what is left of it; a new leader may have extended it.
func stateOf(granted, left time.Duration) LeaseState {
	s := LeaseState{State: "held", Renewed: max(granted-left, 0)}
	if left < granted-HorizonShare(granted) {
		s.State = "suspended"
	}
	return s
}

// lasts says whether t is the tenure of what stands at its name; if nothing does, it isn't.
func lasts(t Tenure, s Standing) bool { return s.Revision != 0 && t.Open() && s.Lease == t.Lease }

// waitersOf returns the hosts that wait, by what stands at their keys, without those whose lease
// holds a name.
func waitersOf(pool string, kvs []*mvccpb.KeyValue, holds map[clientv3.LeaseID]bool) []Waiter {
	owners, since := make(map[string]string), make(map[string]time.Time)
	for _, kv := range kvs {
		lease, rest, dated := strings.Cut(strings.TrimPrefix(string(kv.Key), WaitingKey(pool)), "/")
		switch id, err := strconv.ParseUint(lease, 16, 64); {
		case err != nil || clientv3.LeaseID(id) != clientv3.LeaseID(kv.Lease) || holds[clientv3.LeaseID(id)]:
		case !dated:
			owners[lease] = ShowOwner(string(kv.Value))
		case rest == "since":
			if t, err := time.Parse(time.RFC3339, string(kv.Value)); err == nil && !t.After(time.Now().Add(ClocksApart)) {
				since[lease] = t
			}
		}
	}
	waiting := make([]Waiter, 0, len(owners))
	for lease, owner := range owners {
		waiting = append(waiting, Waiter{Owner: owner, Since: since[lease]})
	}
	slices.SortFunc(waiting, func(a, b Waiter) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Owner, b.Owner)) })
	return waiting
}

// The errors of AskFor when there is no host to ask, or it does not react.
var (
	ErrNotHeld   = errors.New("nobody holds it")
	ErrNoLease   = errors.New("its key has no lease: it was put there by hand, and no host holds it")
	ErrStillHeld = errors.New("its holder has not released it in time")
)

// AskFor asks the holder of a name to let go of it, and to stay away from it for one TTL, and
// waits until it has. It returns the holder's owner.
func AskFor(ctx context.Context, c *etcd.Client, pool, name string) (owner string, err error) {
	key := NamesKey(pool) + name
	resp, err := c.Ask(ctx, clientv3.OpGet(key))
	if err != nil {
		return "", fmt.Errorf("read who holds %s: %w", name, err)
	}
	if len(resp.Get().Kvs) == 0 {
		return "", ErrNotHeld
	}
	held := standingOf(resp.Get().Kvs[0])
	if held.Lease == 0 {
		return held.Owner, ErrNoLease
	}
	err = c.Try(ctx, func(ctx context.Context) error {
		left, err := c.TimeToLive(ctx, held.Lease)
		if err != nil {
			return err
		}
		wish, err := c.Grant(ctx, max(left.GrantedTTL, int64(MinTTL/time.Second)))
		if err != nil {
			return err
		}
		_, err = c.Put(ctx, ReleasedKey(pool)+name, LeaseHex(held.Lease), clientv3.WithLease(wish.ID))
		return err
	})
	if err != nil {
		return held.Owner, fmt.Errorf("ask for %s: %w", name, err)
	}
	for {
		resp, err := c.Ask(ctx, clientv3.OpGet(key))
		switch {
		case ctx.Err() != nil:
			return held.Owner, ErrStillHeld
		case err != nil:
			return held.Owner, fmt.Errorf("wait for %s: %w", name, err)
		case len(resp.Get().Kvs) == 0 || resp.Get().Kvs[0].CreateRevision != held.Revision:
			return held.Owner, nil
		}
		retry.Sleep(ctx, 200*time.Millisecond)
	}
}

// TenuresOf returns who holds and held name, the latest first. A tenure that a crash left without
// an end is shown to end at the next one's start, the latest it can have been. A holder without a
// record comes first, without times.
func TenuresOf(ctx context.Context, c *etcd.Client, pool, name string) ([]Tenure, error) {
	if !IsName(name) {
		return nil, nil
	}
	stand, past, err := readPast(ctx, c, pool, name, func([]Tenure) bool { return true })
	if err != nil {
		return nil, err
	}
	holder, held := stand[name]
	if !held {
		return past, nil
	}
	last := Tenure{Name: name, Owner: holder.Owner, Lease: holder.Lease, Lasts: true}
	if i := slices.IndexFunc(past, func(t Tenure) bool { return t.Lasts }); i >= 0 { // though others' clocks may say that they came later
		last = past[i]
		past = slices.Delete(past, i, i+1)
	}
	return slices.Insert(past, 0, last), nil
}

// TenuresBy returns which names owner holds and held, the latest first. It reads all records of the
// pool.
func TenuresBy(ctx context.Context, c *etcd.Client, pool, owner string) ([]Tenure, error) {
	past, err := TenuresAround(ctx, c, pool, owner)
	return slices.DeleteFunc(past, func(t Tenure) bool { return t.Owner != owner }), err
}

// TenuresAround returns what TenuresBy does, and among it the tenures that others had of the same
// names.
func TenuresAround(ctx context.Context, c *etcd.Client, pool, owner string) ([]Tenure, error) {
	_, past, err := readPast(ctx, c, pool, "", func(ofName []Tenure) bool {
		return slices.ContainsFunc(ofName, func(t Tenure) bool { return t.Owner == owner })
	})
	return past, err
}

// readPast returns the tenures of a name, or of each that is wanted by its tenures if name is "", the
// one claimed last first; and what stands at the pool's names. Tenures of the future are left out,
// but for one that lasts: since when is not known then.
func readPast(ctx context.Context, c *etcd.Client, pool, name string, wanted func(ofName []Tenure) bool) (stand map[string]Standing, past []Tenure, err error) {
	g, err := Look(ctx, c, pool)
	if err != nil {
		return nil, nil, err
	}
	stand = g.Held
	now := time.Now()
	var ofName []Tenure
	take := func() { // all of a name are read
		for i, t := range ofName {
			ofName[i].Lasts = lasts(t, stand[t.Name])
		}
		dated := slices.DeleteFunc(ofName, func(t Tenure) bool { return t.InFuture(now) && !t.Lasts })
		closed := CloseByNext(dated)
		for i, t := range closed {
			if t.InFuture(now) {
				closed[i].From = time.Time{}
			}
		}
		if wanted(closed) {
			past = append(past, closed...)
		}
		ofName = ofName[:0]
	}
	each := func(kv *mvccpb.KeyValue) { // in the order of names
		t, ok := ReadTenure(pool, kv)
		if !ok {
			return
		}
		if len(ofName) > 0 && ofName[0].Name != t.Name {
			take()
		}
		ofName = append(ofName, t)
	}
	err = Reader(c.Ask).records(ctx, pool, name, each)
	if err != nil {
		return nil, nil, fmt.Errorf("read the tenures of pool %s: %w", pool, err)
	}
	take()
	slices.SortStableFunc(past, func(a, b Tenure) int { return b.From.Compare(a.From) })
	return stand, past, nil
}
