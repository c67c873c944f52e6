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

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/prefixproxy/prefixproxy/membership/pool"
)

// stay renews a lease under which no name was free, and shows that its holder waits for one. The
// error is Expired if the lease is gone.
func (s *store) stay(ctx context.Context, lease clientv3.LeaseID) error {
	key := pool.WaitingKey(s.cfg.Pool) + pool.LeaseHex(lease)
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
		clientv3.OpPut(key+"/since", time.Now().UTC().Format(pool.RecordTime), clientv3.WithLease(lease)),
	).Commit()
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return Expired
	}
	if err != nil {
		return fmt.Errorf("show that we wait: %w", err)
	}
	return nil
}

// leave ends what stay shows. Any goroutine may call it.
func (s *store) leave(ctx context.Context, lease clientv3.LeaseID) error {
	key := pool.WaitingKey(s.cfg.Pool) + pool.LeaseHex(lease)
	if _, err := s.client.Txn(ctx).Then(clientv3.OpDelete(key), clientv3.OpDelete(key+"/since")).Commit(); err != nil {
		return fmt.Errorf("show that we do not wait any more: %w", err)
	}
	return nil
}

// herdSpread is the time over which the hosts that wait for a name try to get one that was freed:
// the first takes it, and most others notice before they have asked.
const herdSpread = 250 * time.Millisecond

// awaitFree returns when a name was freed since the last claim. It may run beside stay.
func (s *store) awaitFree(ctx context.Context) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx)) // a member cut off from the others says so
	defer cancel()
	from := []clientv3.OpOption{clientv3.WithPrefix()}
	if s.looked > 0 { // otherwise there was nothing to look at, and what was is none of our business
		from = append(from, clientv3.WithRev(s.looked+1))
	}
	changes := s.client.Watch(ctx, pool.NamesKey(s.cfg.Pool), from...)
	free := make(map[string]bool)
	var turn <-chan time.Time // nil: nothing was freed
	for {
		select {
		case resp, open := <-changes:
			if err := cmp.Or(resp.Err(), ctx.Err()); err != nil {
				return fmt.Errorf("watch for a free name: %w", err)
			}
			if !open {
				return errors.New("watch for a free name: etcd ended it")
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

// noteFree keeps track of which names of our list are free.
func (s *store) noteFree(free map[string]bool, events []*clientv3.Event) {
	for _, ev := range events {
		name := strings.TrimPrefix(string(ev.Kv.Key), pool.NamesKey(s.cfg.Pool))
		switch {
		case ev.Type == clientv3.EventTypePut:
			delete(free, name)
		case slices.Contains(s.cfg.Names, name):
			free[name] = true
		}
	}
}
