package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/records"
	"github.com/prefixproxy/prefixproxy/internal/retry"
)

// How often the disk is made to write, and when to try again what failed.
const (
	syncInterval = time.Second
	retryAfter   = time.Second // not longer, however long it has failed: memory fills

	// maxFailures is how often a segment cannot be read before it is given up: a disk that is gone
	// for a while may be back, a bad sector stays.
	maxFailures = 60

	// segmentsAtOnce is how many segments are moved before Run looks for other work.
	segmentsAtOnce = 16
)

// A spooler is the part of a store that may wait for the disk: it moves lines there, and reads them
// from there. Its methods lock mu themselves, unless they say that it is held.
type spooler struct {
	*Store
	syncErr error // of the last sync; mu guards it

	// The others are turn's.
	resumes  time.Time // when to try again what failed
	readErr  error     // of what was read ahead last
	isBroken bool      // the disk does not work
}

// run is Store.Run. A disk may take seconds to sync: meanwhile, lines are moved.
func (s *spooler) run(ctx context.Context) error {
	var syncing sync.WaitGroup
	defer syncing.Wait()
	syncing.Go(func() { s.keepSynced(ctx) })
	for {
		var again <-chan time.Time // an idle host is left alone
		if wait := s.turn(time.Now()); wait > 0 {
			again = time.After(wait)
		}
		select {
		case <-s.work:
		case <-again:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// turn does what there is to do, and returns when there will be more; 0: when something happens.
func (s *spooler) turn(now time.Time) (wait time.Duration) {
	wait = s.resumes.Sub(now)
	if s.readErr == nil || wait <= 0 {
		s.readErr = s.readAhead()
	}
	if wait > 0 {
		return wait
	}
	err := errors.Join(s.readErr, s.moveDown(false))
	if err != nil {
		s.resumes = now.Add(retryAfter)
	}
	s.mu.Lock()
	err = errors.Join(err, s.syncErr)
	s.mu.Unlock()
	switch {
	case err != nil && !s.isBroken:
		s.out.Error("spool out of order; lines stay in memory, up to its bound", "err", err,
			"hint", "make room on the disk of membership.state_dir, or make it writable")
	case err == nil && s.isBroken:
		s.out.Info("spool in order again")
	}
	s.isBroken = err != nil
	return max(0, s.resumes.Sub(now))
}

// keepSynced syncs at most once a second, when there is something to be synced.
func (s *spooler) keepSynced(ctx context.Context) {
	for retry.Sleep(ctx, syncInterval) {
		select {
		case <-s.dirty:
			s.sync()
			notify(s.work) // it says how that went
		case <-ctx.Done():
		}
	}
}

// moveDown moves segments to disk, the oldest first: all that fit, or as long as there is
// pressure, some of them.
func (s *spooler) moveDown(all bool) error {
	for n := 0; all || n < segmentsAtOnce; n++ {
		s.mu.Lock()
		g := s.mover(all)
		s.mu.Unlock()
		if g == nil {
			return nil
		}
		if err := s.move(g); err != nil && !s.makeRoom(err) {
			return err
		}
	}
	notify(s.work) // when the rest has had its turn
	return nil
}

// mover returns the segment to move to disk next, or nil. Under pressure, it makes room for it;
// where the bounds were lowered, no more than that. mu is held, but not while it removes files.
func (s *spooler) mover(all bool) *segment {
	limit := max(s.limit[onDisk], s.used[onDisk])
	for g := s.eldest(inMemory); g != nil && (all || s.isPressed()); g = s.eldest(inMemory) {
		if s.used[onDisk]+g.size() <= limit {
			g.sealed, g.moving = true, true
			return g
		}
		unused := len(s.unused)
		if all || s.most > s.limit[inMemory] || !s.evict(onDisk) {
			break
		}
		s.takeOut(unused)
	}
	return nil
}

// makeRoom removes from a full disk what is needed no more, or else a segment that is kept only to
// be sent again; where descriptors are short, it closes files. It returns whether there was anything.
func (s *spooler) makeRoom(err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if errors.Is(err, syscall.EMFILE) {
		return s.named.closeFiles() || s.held.closeFiles()
	}
	return errors.Is(err, syscall.ENOSPC) && (s.takeOut(0) || s.drop(s.delivered(onDisk)) && s.takeOut(0))
}

// move moves a sealed segment to disk. Nobody waits for it.
func (s *spooler) move(g *segment) error {
	name := segmentName(g.Kind, g.Base.At)
	// If the file was cut, who reads it will say so.
	err := g.read(func(f *os.File) error { return replaceFile(s.files, s.disk, name, io.NewSectionReader(f, 0, g.size())) })
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.logOf(g)
	g.moving = false
	if err != nil {
		g.sealed = s.closed || l.last() != g // if no other can be created, it takes more lines
		return fmt.Errorf("spool a segment: %w", err)
	}
	notify(s.dirty)
	s.release(g.entry)
	s.used[inMemory] -= g.size()
	s.used[onDisk] += g.size()
	g.entry, g.tier = entry{dir: s.disk, name: name}, onDisk
	s.unsynced = append(s.unsynced, g)
	s.Held.look()
	s.tellAll() // it may be read from now on
	return nil
}

// takeOut removes files on disk that nobody needs, but the first few, and returns whether there were
// any. mu is held, but not while it removes them.
func (s *spooler) takeOut(kept int) bool {
	unused := s.unused[kept:]
	s.unused = slices.Clone(s.unused[:kept])
	s.mu.Unlock()
	defer s.mu.Lock()
	s.remove(unused)
	return len(unused) > 0
}

func (s *spooler) remove(unused []entry) {
	for _, e := range unused {
		if err := s.files.remove(e.dir, e.name); err != nil {
			s.out.Warn("file of the spool not removed", "err", err) // the next start will
		}
	}
}

// readAhead reads from disk what is to be sent or named next.
func (s *spooler) readAhead() (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	isThirsty := func(c *Cursor) bool { return c.linked && c.todo.Bytes() < thirst }
	if h := &s.Held; h.taken.IsEmpty() && !s.closed && slices.ContainsFunc(s.cursors, isThirsty) {
		err = s.prefetch(&h.reader, h.todo.First(s.held.in(onDisk)))
	}
	for _, c := range slices.Clone(s.cursors) {
		if c.linked && !s.closed {
			sp, _ := c.first(s.named.in(onDisk))
			err = errors.Join(err, s.prefetch(&c.reader, sp))
		}
	}
	return err
}

// prefetch reads the beginning of sp, unless r has it. mu is held, but not while it reads.
func (s *spooler) prefetch(r *reader, sp records.Span) (err error) {
	if !sp.IsEmpty() && !r.ahead.Begins(sp) {
		r.ahead.Free()
		r.ahead, err = s.load(r, sp)
		notify(r.more)
	}
	return err
}

// sync makes the disk write what was written.
func (s *spooler) sync() (err error) {
	s.mu.Lock()
	s.syncs++
	moved, unused, state := s.unsynced, s.unused, s.state(!s.unsaved)
	s.unsynced, s.unused = nil, nil
	s.mu.Unlock()
	for _, g := range moved {
		syncErr := g.read(func(f *os.File) error { return s.files.sync(f.Name(), f) })
		if !errors.Is(syncErr, fs.ErrNotExist) { // else nobody needs it any more
			err = errors.Join(err, syncErr)
		}
	}
	if err = errors.Join(err, s.states[onDisk].write(s.files, state, true)); err == nil {
		err = s.files.sync(s.disk.Path(), s.disk)
	}
	if err == nil || errors.Is(err, syscall.ENOSPC) { // this makes room
		s.remove(unused)
		unused = nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		err = fmt.Errorf("sync the spool: %w", err)
		s.unsynced, s.unused = append(moved, s.unsynced...), append(unused, s.unused...)
		notify(s.dirty)
	}
	s.syncErr = err
	return err
}
