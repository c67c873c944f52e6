package membership

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/prefixproxy/prefixproxy/internal/retry"
)

// A simStore is one holder's way to a simulated etcd, for tests of timing: it
// runs in a synctest bubble, on its clock. down and delay are the way's faults.
type simStore struct {
	etcd *simEtcd
	ttl  time.Duration

	mu       sync.Mutex
	down     bool          // requests are not answered before their time-out
	stuck    bool          // renewals alone are not
	full     bool          // claims alone are refused
	delay    time.Duration // of every answer
	renewals []time.Duration
}

// A simEtcd holds one pool.
type simEtcd struct {
	now clock

	mu       sync.Mutex
	revision int64
	leases   map[clientv3.LeaseID]time.Duration // when they end
	keys     map[string]simKey
	marked   time.Duration // until when the marker stands
	freed    chan struct{} // closed at the next free name
}

type simKey struct {
	owner    string
	lease    clientv3.LeaseID
	revision int64
}

var errSimDown = errors.New("simulated etcd is down")

func newSimEtcd() *simEtcd {
	start := time.Now()
	return &simEtcd{
		now:      func() time.Duration { return time.Since(start) },
		revision: 1,
		leases:   make(map[clientv3.LeaseID]time.Duration),
		keys:     make(map[string]simKey),
		freed:    make(chan struct{}),
	}
}

// request waits as long as the way to etcd takes; do runs at etcd.
func (s *simStore) request(ctx context.Context, do func(e *simEtcd) error) error {
	s.mu.Lock()
	down, delay := s.down, s.delay
	s.mu.Unlock()
	if down {
		<-ctx.Done()
		return errSimDown
	}
	s.etcd.mu.Lock()
	s.etcd.expire()
	err := do(s.etcd)
	s.etcd.mu.Unlock()
	if !retry.Sleep(ctx, delay) {
		return ctx.Err()
	}
	return err
}

func (s *simStore) set(down bool, delay time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down, s.delay = down, delay
}

// expire ends what has run out. The caller holds mu.
func (e *simEtcd) expire() {
	for id, end := range e.leases {
		if e.now() >= end {
			e.end(id)
		}
	}
}

func (e *simEtcd) end(id clientv3.LeaseID) {
	delete(e.leases, id)
	for name, k := range e.keys {
		if k.lease == id {
			delete(e.keys, name)
			e.revision++
			close(e.freed)
			e.freed = make(chan struct{})
		}
	}
}

func (s *simStore) grant(ctx context.Context) (granted lease, err error) {
	granted.ttl, granted.term = s.ttl, 7
	err = s.request(ctx, func(e *simEtcd) error {
		e.revision++
		granted.id = clientv3.LeaseID(e.revision)
		e.leases[granted.id] = e.now() + s.ttl
		return nil
	})
	return granted, err
}

func (s *simStore) claim(ctx context.Context, under lease, ask asking) (c claimed, err error) {
	s.mu.Lock()
	full := s.full
	s.mu.Unlock()
	if full {
		return claimed{}, errSimDown
	}
	lease, own := under.id, ask.own
	err = s.request(ctx, func(e *simEtcd) error {
		marked := e.now() < e.marked
		if e.leases[lease] == 0 {
			return Expired
		}
		for name, k := range e.keys {
			if k.lease == lease {
				c = claimed{name: name, key: name, revision: k.revision, marked: marked}
				return nil
			}
		}
		if own != nil {
			if k, ok := e.keys[own.Name]; ok && k.lease == own.Lease && k.revision == own.Revision {
				e.keys[own.Name] = simKey{"homer", lease, k.revision}
				c = claimed{name: own.Name, key: own.Name, revision: k.revision, takenOver: true, marked: marked}
				return nil
			}
		}
		for _, name := range []string{"Denali", "MtLogan"} {
			if _, taken := e.keys[name]; !taken {
				e.revision++
				e.keys[name] = simKey{"homer", lease, e.revision}
				c = claimed{name: name, key: name, revision: e.revision, marked: marked}
				return nil
			}
		}
		return ErrNoFreeName
	})
	return c, err
}

func (s *simStore) renew(ctx context.Context, c *Claim) error {
	s.mu.Lock()
	s.renewals = append(s.renewals, s.etcd.now())
	stuck := s.stuck
	s.mu.Unlock()
	if stuck {
		<-ctx.Done()
		return ctx.Err()
	}
	return s.request(ctx, func(e *simEtcd) error {
		k, ok := e.keys[c.name]
		switch {
		case e.revision < c.revision:
			return DataLoss
		case e.leases[c.lease] == 0:
			return Expired
		case !ok:
			return Deleted
		case k.revision != c.revision || k.lease != c.lease:
			return Overwritten
		}
		e.leases[c.lease] = e.now() + s.ttl
		return nil
	})
}

func (s *simStore) stopRenewing() {}

func (s *simStore) stay(ctx context.Context, lease clientv3.LeaseID) error {
	return s.request(ctx, func(e *simEtcd) error {
		if e.leases[lease] == 0 {
			return Expired
		}
		e.leases[lease] = e.now() + s.ttl
		return nil
	})
}

func (s *simStore) look(ctx context.Context, c *Claim) error {
	return s.request(ctx, func(e *simEtcd) error {
		if _, ok := e.keys[c.name]; !ok {
			return Deleted
		}
		return nil
	})
}

func (s *simStore) leave(context.Context, clientv3.LeaseID) error { return nil }

func (s *simStore) revoke(ctx context.Context, lease clientv3.LeaseID) error {
	return s.request(ctx, func(e *simEtcd) error { e.end(lease); return nil })
}

// The simulated etcd keeps no records.

func (s *simStore) release(context.Context, *Claim, Tenure) error           { return nil }
func (s *simStore) tenures(context.Context, string) ([]Tenure, bool, error) { return nil, false, nil }
func (s *simStore) isGone(context.Context, clientv3.LeaseID) (bool, error)  { return true, nil }
func (s *simStore) recordEnd(context.Context, Tenure, *Claim) error         { return nil }
func (s *simStore) prune(context.Context, string, time.Time) error          { return nil }

func (s *simStore) awaitFree(ctx context.Context) error {
	s.etcd.mu.Lock()
	freed := s.etcd.freed
	s.etcd.mu.Unlock()
	select {
	case <-freed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *simStore) mark(ctx context.Context) error {
	return s.request(ctx, func(e *simEtcd) error { e.marked = e.now() + s.ttl; return nil })
}

func (s *simStore) Failed(err error, _ time.Time) error     { return err }
func (s *simStore) Unreachable() error                      { return nil }
func (s *simStore) Version(context.Context) (string, error) { return "3.7.3", nil }

// lose makes the simulated etcd one that was restored from an empty backup.
func (e *simEtcd) lose() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.revision = 1
	clear(e.leases)
	clear(e.keys)
}

const simTTL = 15 * time.Second

// newSim returns a holder on a simulated etcd, which is not running yet.
func newSim(t *testing.T, e *simEtcd, state *StateDir) (*Holder, *simStore) {
	cfg := DefaultConfig()
	cfg.Owner = "homer"
	s := &simStore{etcd: e, ttl: simTTL}
	return newHolder(s, cfg, state, e.now, testLog(t)), s
}
