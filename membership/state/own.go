package state

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prefixproxy/prefixproxy/membership/pool"
)

// Own is what a holder remembers, and a restart will. One goroutine owns it; Run has its own.
type Own struct {
	Before  *Claim // to be taken over: the last process's, until the first claim; nil: none
	Last    Claim  // what was saved last
	Tenures Tenures

	saver
}

// NewOwn returns an Own that knows nothing yet, and saves in dir; nil: nowhere.
func NewOwn(dir *Dir, log *slog.Logger) *Own {
	return &Own{saver: saver{dir: dir, log: log, wake: make(chan struct{}, 1)}}
}

// Recall loads what the last process held in a pool, if it is one of names, and its tenures.
func (o *Own) Recall(in string, names []string) {
	if o.dir == nil {
		return
	}
	m, tenures, err := o.dir.load(in)
	if err != nil {
		o.log.Warn("last claim not remembered", "err", err)
	}
	o.Tenures = tenures
	if m == nil {
		return
	}
	o.Last = *m
	if m.Pool != in || !slices.Contains(names, m.Name) {
		return
	}
	o.Before = m
	if m.Record != "" && !m.copied && tenures.Find(pool.Tenure{Name: m.Name, ID: m.Record}) == nil { // killed before it was written
		o.Tenures = append(tenures, Tenure{Name: m.Name, Record: m.Record, Start: m.Start, Elsewhere: !m.Here})
	}
}

// Remember has m and our tenures saved, if there is a directory; without it a restart
// only has less to go by.
func (o *Own) Remember(m Claim) (saved <-chan struct{}) {
	o.Last = m
	return o.save(m, o.Tenures)
}

// End ends our tenure t, which is over. It must be saved before etcd is told: a
// process that comes after must not take more for ours than others can read there.
func (o *Own) End(t pool.Tenure, to time.Time) (saved <-chan struct{}) {
	o.Tenures.End(t, to)
	return o.save(o.Last, o.Tenures)
}

// A saver saves in a goroutine of its own: a disk may take half a minute, and a
// renewal must not wait for it. Of several things to be saved it takes the last.
type saver struct {
	dir  *Dir // nil: nothing is saved
	log  *slog.Logger
	wake chan struct{}

	mu      sync.Mutex
	waiting *saved
	done    chan struct{} // closed when waiting is saved, or can't be
}

// save has m and own saved. What it returns is closed then.
func (s *saver) save(m Claim, own Tenures) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done == nil {
		s.done = make(chan struct{})
	}
	done := s.done
	if s.dir == nil {
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

// Run saves until ctx ends, and then what is left.
func (s *saver) Run(ctx context.Context) {
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
	err := s.dir.save(*f)
	switch {
	case err != nil && unsaved == nil:
		s.log.Warn("claim not saved; a restart would not know it", "dir", s.dir.Path(), "err", err)
	case err == nil && unsaved != nil:
		s.log.Info("claim saved", "dir", s.dir.Path())
	}
	if done != nil {
		close(done)
	}
	if err != nil {
		return f
	}
	return nil
}
