package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/records"
)

// This file is what Run does: all that may wait for the disk.

// How often the disk is made to write, and what failed is tried again.
const (
	syncInterval = time.Second
	retry        = time.Second // not longer, however long it has failed: memory fills

	// segmentsAtOnce is how many segments are moved before Run looks at what else
	// there is to do.
	segmentsAtOnce = 16
)

// Run moves lines to disk, and reads them from there, until ctx ends.
func (s *Store) Run(ctx context.Context) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		if again := s.step(time.Now()); again > 0 {
			timer.Reset(again)
		} else {
			timer.Stop() // an idle host is left alone
		}
		select {
		case <-s.work:
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// step does what there is to do, and returns after which time there will be more; 0:
// when something happens.
func (s *Store) step(now time.Time) time.Duration {
	if s.disk == nil {
		return 0
	}
	s.takeOut()
	readErr := s.readAhead()
	if wait := s.trouble.until.Sub(now); wait > 0 {
		return wait
	}
	err := s.moveDown(segmentsAtOnce)
	next, syncErr := s.sync(now)
	if err = errors.Join(readErr, err, syncErr); err != nil {
		return s.trouble.note(s.out, now, err)
	}
	if next == 0 {
		s.trouble.over(s.out)
	}
	return next
}

// moveDown moves the oldest segments to disk, as long as there is pressure.
func (s *Store) moveDown(most int) error {
	for range most {
		g := s.takePressed()
		if g == nil {
			return nil
		}
		s.takeOut()
		if err := s.move(g); err != nil {
			return err
		}
	}
	notify(s.work) // when the rest has had its turn
	return nil
}

// takePressed returns the segment that is to be moved; nil: none. It makes room for it.
func (s *Store) takePressed() *segment {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.isPressed() {
		return nil
	}
	g := s.eldest(false)
	if g == nil {
		return nil
	}
	g.sealed = true
	for s.diskUsed+g.size() > s.diskLimit && s.evict(true) {
	}
	if g.gone || s.diskUsed+g.size() > s.diskLimit {
		return nil
	}
	return g
}

// move moves a segment, which is sealed, to disk. Nobody waits for it.
func (s *Store) move(g *segment) error {
	name := segmentName(g.Kind, g.Base.At)
	if err := s.files.replace(s.disk, name, func(f *os.File) error { return s.copyTo(f, g) }); err != nil {
		return fmt.Errorf("spool a segment: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dirty = true
	if g.gone {
		s.trash = append(s.trash, &segment{dir: s.disk, name: name})
		notify(s.work)
		return nil
	}
	old := *g
	s.memoryUsed -= g.size()
	s.diskUsed += g.size()
	g.file, g.dir, g.name, g.onDisk, g.dirty = nil, s.disk, name, true, true
	s.release(&old)
	if g.Kind == records.Held {
		s.hold()
		notify(s.MoreHeld)
	}
	s.tellAll() // it may be read from now on
	return nil
}

// copyTo writes what is in a segment to a file.
func (s *Store) copyTo(f *os.File, g *segment) error {
	buf := make([]byte, 64<<10)
	for at, size := int64(0), g.size(); at < size; {
		n, err := g.file.ReadAt(buf[:min(size-at, int64(len(buf)))], at)
		if n == 0 && errors.Is(err, io.EOF) {
			break // it was cut; who reads it will say so
		}
		if n > 0 {
			err = s.files.write(f, buf[:n], nil, at)
		}
		if err != nil {
			return err
		}
		at += int64(n)
	}
	return nil
}

// takeOut removes the files that nobody needs any more.
func (s *Store) takeOut() {
	s.mu.Lock()
	trash := s.trash
	s.trash = nil
	s.mu.Unlock()
	for _, g := range trash {
		if err := s.files.remove(g.dir, g.name); err != nil {
			s.out.Warn("file of the spool not removed", "err", err) // the next start will
		}
	}
}

// readAhead reads what is to be sent, or named, from disk.
func (s *Store) readAhead() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for more := true; more; {
		var err error
		if more, err = s.readForHeld(); err != nil {
			return err
		}
		for _, c := range slices.Clone(s.cursors) {
			is, err := s.readFor(c)
			if err != nil {
				return err
			}
			more = more || is
		}
	}
	return nil
}

// readFor reads what a cursor is to be sent next. It says whether to look again. s.mu is
// held, but not while it reads.
func (s *Store) readFor(c *Cursor) (again bool, err error) {
	sp := c.late(s.named.onDisk())
	if !c.linked || s.closed || sp.IsEmpty() {
		return false, nil
	}
	return s.prefetch(&s.named, sp, &c.ahead, c.more)
}

// readForHeld reads some held lines, if somebody would name them and somebody be sent
// them. It says whether to look again. s.mu is held, but not while it reads.
func (s *Store) readForHeld() (again bool, err error) {
	h := &s.held
	sp := h.todo.First(h.onDisk())
	if !h.asked || sp.IsEmpty() || !s.isThirsty() {
		return false, nil
	}
	return s.prefetch(&h.log, sp, &h.ahead, s.MoreHeld)
}

// prefetch reads what is at the head of sp, unless ahead has it.
func (s *Store) prefetch(l *log, sp records.Span, ahead *records.Chunk, tell chan struct{}) (again bool, err error) {
	if ahead.Begins(sp) {
		return false, nil
	}
	got := records.Chunk{Span: sp}
	if ok, err := s.load(l, &got); !ok {
		got.Free()
		return err == nil, err
	}
	ahead.Free()
	*ahead = got
	notify(tell)
	return false, nil
}

// isThirsty says whether somebody has little to be sent. s.mu is held.
func (s *Store) isThirsty() bool {
	return !s.closed && slices.ContainsFunc(s.cursors, func(c *Cursor) bool { return c.linked && c.bytes < thirst })
}

// load reads what is at c.From, in either tier. It returns false where that has changed,
// is lost, or cannot be read now, which is an error. s.mu is held, but not while it reads.
func (s *Store) load(l *log, c *records.Chunk) (ok bool, err error) {
	if l == &s.named && s.recent.copyTo(c) {
		return true, nil
	}
	g := l.at(c.From)
	if g == nil {
		return false, nil
	}
	if c.To.At > g.end.At {
		c.To = g.end
	}
	onDisk, f := g.onDisk, g.file
	s.mu.Unlock()
	if onDisk {
		if f, err = g.dir.OpenFile(g.name, os.O_RDONLY, 0); err == nil {
			defer f.Close()
		}
	}
	if err == nil {
		err = g.Read(f, c)
	}
	s.mu.Lock()
	switch {
	case g.gone || g.onDisk != onDisk:
		return false, nil
	case err == nil:
		return true, nil
	case onDisk && !isDamage(err):
		return false, fmt.Errorf("read the spool: %w", err)
	}
	s.damaged(g, c.From, err)
	return false, nil
}

// sync makes the disk write what was written, once a second, and returns after which
// time to do so again; 0: nothing was written.
func (s *Store) sync(now time.Time) (next time.Duration, err error) {
	s.mu.Lock()
	dirty := s.dirty
	s.mu.Unlock()
	if !dirty {
		return 0, nil
	}
	if wait := syncInterval - now.Sub(s.synced); wait > 0 {
		return wait, nil
	}
	s.synced = now
	return 0, s.syncNow()
}

// syncNow makes the disk write what was written.
func (s *Store) syncNow() (err error) {
	s.mu.Lock()
	var dirty []*segment
	for _, l := range s.logs() {
		for _, g := range l.tier(true) {
			if g.dirty {
				dirty = append(dirty, g)
			}
		}
	}
	state, used := s.state(), s.diskUsed > 0
	s.dirty = false
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if err != nil {
			s.dirty = true
			return
		}
		for _, g := range dirty {
			g.dirty = false
		}
		s.wasUsed = used
	}()
	for _, g := range dirty {
		if err := s.syncSegment(g.name); err != nil {
			return fmt.Errorf("sync the spool: %w", err)
		}
	}
	if err := s.diskState.write(&s.files, state, true); err != nil {
		return fmt.Errorf("write the spool's state: %w", err)
	}
	if err := s.files.sync(s.disk.Path(), s.disk); err != nil {
		return fmt.Errorf("sync the spool: %w", err)
	}
	return nil
}

func (s *Store) syncSegment(name string) error {
	f, err := s.disk.OpenFile(name, os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // nobody needs it any more
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return s.files.sync(f.Name(), f)
}

// Close ends the use of the store, when Run and all sessions have ended. What is left
// goes to disk, up to its bound; or else stays in memory for the next start; what the
// end of the process would take is dropped, and counted. An error says that the disk
// did not take what it had to.
func (s *Store) Close() error {
	s.mu.Lock()
	for _, l := range s.logs() {
		for _, g := range l.segments {
			g.sealed = true
		}
	}
	s.sweep()
	s.mu.Unlock()
	err := s.spoolRest()
	s.mu.Lock()
	isEmpty := true
	for _, l := range s.logs() {
		for _, g := range slices.Clone(l.segments) {
			if g.dir == nil {
				s.drop(g, Shutdown)
			}
			isEmpty = isEmpty && (g.dir == nil || g.dir == s.disk)
		}
	}
	s.save()
	s.mu.Unlock()
	if s.disk != nil {
		err = errors.Join(err, s.syncNow())
	}
	s.takeOut()
	return errors.Join(err, s.leave(isEmpty))
}

// spoolRest moves what is left to disk, as far as it may be there.
func (s *Store) spoolRest() error {
	for s.disk != nil {
		s.mu.Lock()
		g := s.eldest(false)
		fits := g != nil && s.diskUsed+g.size() <= s.diskLimit
		s.mu.Unlock()
		if !fits {
			break
		}
		if err := s.move(g); err != nil {
			return err
		}
	}
	return nil
}

// trouble is a disk that does not work. It is told once.
type trouble struct {
	until time.Time // no attempt before; zero: the disk works
}

// note takes note of an error, and returns when to try again.
func (t *trouble) note(log *slog.Logger, now time.Time, err error) time.Duration {
	if t.until.IsZero() {
		log.Error("spool out of order; lines stay in memory, up to its bound", "err", err,
			"hint", "make room on the disk of membership.state_dir, or make it writable")
	}
	t.until = now.Add(retry)
	return retry
}

func (t *trouble) over(log *slog.Logger) {
	if !t.until.IsZero() {
		log.Info("spool in order again")
		*t = trouble{}
	}
}
