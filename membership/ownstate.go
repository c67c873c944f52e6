package membership

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prefixproxy/prefixproxy/membership/pool"
)

// ownState is what a holder remembers, and a restart will. Run's goroutine owns it.
type ownState struct {
	saver      *saver
	own        *memory // the claim to be taken over: the last process's, until the first claim
	memory     memory  // what was saved last
	ownTenures ownTenures
}

// recall loads what the last process held, and its tenures.
func (o *ownState) recall(cfg Config) {
	if o.saver.state == nil {
		return
	}
	m, tenures, err := o.saver.state.load(cfg.Pool)
	if err != nil {
		o.saver.log.Warn("last claim not remembered", "err", err)
	}
	o.ownTenures = tenures
	if m == nil {
		return
	}
	o.memory = *m
	if m.Pool != cfg.Pool || !slices.Contains(cfg.Names, m.Name) {
		return
	}
	o.own = m
	if m.Record != "" && !m.copied && tenures.find(pool.Tenure{Name: m.Name, ID: m.Record}) == nil { // killed before it was written
		o.ownTenures = append(tenures, ownTenure{Name: m.Name, Record: m.Record, Start: m.Start, Elsewhere: !m.here})
	}
}

// remember has m and our tenures saved, if there is a state; without it a restart
// only has less to go by.
func (o *ownState) remember(m memory) (saved <-chan struct{}) {
	o.memory = m
	return o.saver.save(m, o.ownTenures)
}

// endOwn ends our tenure t, which is over. It must be saved before etcd is told: a
// process that comes after must not take more for ours than others can read there.
func (o *ownState) endOwn(t pool.Tenure, to time.Time) (saved <-chan struct{}) {
	o.ownTenures.end(t, to)
	return o.saver.save(o.memory, o.ownTenures)
}

// A saver saves in a goroutine of its own: a disk may take half a minute, and a
// renewal must not wait for it. Of several things to be saved it takes the last.
type saver struct {
	state *StateDir // nil: nothing is saved
	log   *slog.Logger
	wake  chan struct{}

	mu      sync.Mutex
	waiting *saved
	done    chan struct{} // closed when waiting is saved, or can't be
}

func newSaver(state *StateDir, log *slog.Logger) *saver {
	return &saver{state: state, log: log, wake: make(chan struct{}, 1)}
}

// save has m and own saved. What it returns is closed then.
func (s *saver) save(m memory, own ownTenures) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done == nil {
		s.done = make(chan struct{})
	}
	done := s.done
	if s.state == nil {
		close(s.done)
		s.done = nil
		return done
	}
	s.waiting = &saved{m, slices.Clone(own)}
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return done
}

// saveAgain is how long after a failure is tried again.
const saveAgain = 10 * time.Second

// run saves until ctx ends, and then what is left.
func (s *saver) run(ctx context.Context) {
	var unsaved *saved // at the last try
	for {
		var again <-chan time.Time
		if unsaved != nil {
			again = time.After(saveAgain)
		}
		select {
		case <-s.wake:
			unsaved = s.write(unsaved)
		case <-again:
			unsaved = s.write(unsaved)
		case <-ctx.Done():
			s.write(unsaved)
			return
		}
	}
}

// write saves what waits, or what was not saved at the last try; it returns what is not
// saved now.
func (s *saver) write(unsaved *saved) *saved {
	s.mu.Lock()
	f, done := cmp.Or(s.waiting, unsaved), s.done
	s.waiting, s.done = nil, nil
	s.mu.Unlock()
	if f == nil {
		return nil
	}
	err := s.state.save(*f)
	switch {
	case err != nil && unsaved == nil:
		s.log.Warn("claim not saved; a restart would not know it", "dir", s.state.Dir(), "err", err)
	case err == nil && unsaved != nil:
		s.log.Info("claim saved", "dir", s.state.Dir())
	}
	if done != nil {
		close(done)
	}
	if err != nil {
		return f
	}
	return nil
}
