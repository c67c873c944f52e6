package state

import (
	"context"
	"log/slog"
	"slices"
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
	return &Own{saver: saver{dir: dir, log: log, next: make(chan saving, 1)}}
}

// Recall loads what the last process held in a pool, if it is one of names, and its tenures.
func (o *Own) Recall(in string, names []string) {
	if o.dir == nil {
		return
	}
	m, tenures, err := o.dir.load(in)
	if err != nil {
		o.log.Warn("last claim cannot be read", "err", err)
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

// Remember has m and our tenures saved, if there is a directory.
func (o *Own) Remember(m Claim) (saved <-chan struct{}) {
	o.Last = m
	return o.save(m, o.Tenures)
}

// End ends our tenure t, which is over. It must be saved before etcd is told: a
// process that comes after must not take more for ours than others can read there.
func (o *Own) End(t pool.Tenure, to time.Time) (saved <-chan struct{}) {
	if own := o.Tenures.Find(t); own != nil {
		own.EndAt(to)
	}
	return o.save(o.Last, o.Tenures)
}

// A saver saves in a goroutine of its own: a disk may take half a minute, and a
// renewal must not wait for it. If several states wait to be saved, only the last one is.
type saver struct {
	dir  *Dir // nil: nothing is saved
	log  *slog.Logger
	next chan saving // cap 1
}

// A saving is what is to be saved; done is closed when it is, or can't be.
type saving struct {
	what saved
	done chan struct{}
}

// save has m and own saved. What it returns is closed then.
func (s *saver) save(m Claim, own Tenures) <-chan struct{} {
	next := saving{saved{m, slices.Clone(own)}, make(chan struct{})}
	if s.dir == nil {
		close(next.done)
		return next.done
	}
	select {
	case before := <-s.next: // is done when this is
		next.done = before.done
	default:
	}
	s.next <- next
	return next.done
}

// saveAgain is the time between a failure and the next try.
const saveAgain = 10 * time.Second

// Run saves until ctx ends, and then what is left.
func (s *saver) Run(ctx context.Context) {
	var unsaved *saved // at the last try
	for ended := false; !ended; {
		var again <-chan time.Time
		if unsaved != nil {
			again = time.After(saveAgain)
		}
		select {
		case next := <-s.next:
			unsaved = s.write(next.what, unsaved)
			close(next.done)
		case <-again:
			unsaved = s.write(*unsaved, unsaved)
		case <-ctx.Done():
			ended = true
		}
	}
	select {
	case next := <-s.next:
		s.write(next.what, unsaved)
		close(next.done)
	default:
		if unsaved != nil {
			s.write(*unsaved, unsaved)
		}
	}
}

// write saves what, and returns what remains unsaved; unsaved is what remained at the last try.
func (s *saver) write(what saved, unsaved *saved) *saved {
	err := s.dir.save(what)
	switch {
	case err != nil && unsaved == nil:
		s.log.Warn("claim not saved; a restart would not know it", "dir", s.dir.Path(), "err", err)
	case err == nil && unsaved != nil:
		s.log.Info("claim saved", "dir", s.dir.Path())
	}
	if err != nil {
		return &what
	}
	return nil
}
