package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/records"
)

// This file is about what Run does: everything that may wait for the disk.

// How often the disk is made to write, and when to try again what failed.
const (
	syncInterval = time.Second
	retry        = time.Second // not longer, however long it has failed: memory fills

	// segmentsAtOnce is how many segments are moved before Run looks for other work.
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

// step does what there is to do, and returns when there will be more; 0: when something
// happens.
func (s *Store) step(now time.Time) time.Duration {
	if s.disk == nil {
		return 0
	}
	s.takeOut()
	readErr := s.readAhead()
	if wait := s.trouble.until.Sub(now); wait > 0 {
		return wait
	}
	err := s.moveDown(segmentsAtOnce, s.pressed)
	next, syncErr := s.sync(now)
	if err = errors.Join(readErr, err, syncErr); err != nil {
		return s.trouble.note(s.out, now, err)
	}
	if next == 0 {
		s.trouble.over(s.out)
	}
	return next
}

// moveDown moves to disk what next returns, which is called under s.mu; nil: nothing more.
func (s *Store) moveDown(most int, next func() *segment) error {
	for range most {
		s.mu.Lock()
		g := next()
		s.mu.Unlock()
		if g == nil {
			return nil
		}
		s.takeOut()
		if err := s.move(g); errors.Is(err, syscall.ENOSPC) && s.makeRoom() {
			continue
		} else if err != nil {
			return err
		}
	}
	notify(s.work) // when the rest has had its turn
	return nil
}

// makeRoom frees a segment on a full disk that is kept only to be sent again. It returns
// whether there was one.
func (s *Store) makeRoom() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.save()
	return slices.ContainsFunc(s.cursors, func(c *Cursor) bool { return s.forget(c, true) })
}

// pressed returns the oldest segment in memory if there is pressure, and makes room for it.
// s.mu is held.
func (s *Store) pressed() *segment {
	g := s.eldest(false)
	if g == nil || !s.isPressed() {
		return nil
	}
	for s.diskUsed+g.size() > s.diskLimit && s.evict(true) {
	}
	return s.fitting()
}

// fitting returns the oldest segment in memory, if the disk has room for it. s.mu is held.
func (s *Store) fitting() *segment {
	g := s.eldest(false)
	if g == nil || s.disk == nil || s.diskUsed+g.size() > s.diskLimit {
		return nil
	}
	g.sealed = true
	return g
}

// unseal lets the last segment of a log take more lines if no other can be created.
func (s *Store) unseal(g *segment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.logs() {
		if last := len(l.segments) - 1; last >= 0 && l.segments[last] == g {
			g.sealed = s.closed
		}
	}
}

// move moves a sealed segment to disk. Nobody waits for it.
func (s *Store) move(g *segment) error {
	name := segmentName(g.Kind, g.Base.At)
	if err := s.files.replace(s.disk, name, func(f *os.File) error { return s.copyTo(f, g) }); err != nil {
		s.unseal(g)
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

// readAhead reads from disk what is to be sent or named next.
func (s *Store) readAhead() (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := &s.held; h.asked && s.isThirsty() {
		err = s.prefetch(&h.log, func() records.Span { return h.todo.First(h.onDisk()) }, &h.ahead, s.MoreHeld)
	}
	for _, c := range slices.Clone(s.cursors) {
		if c.linked && !s.closed {
			err = errors.Join(err, s.prefetch(&s.named, func() records.Span { sp, _ := c.first(s.named.onDisk()); return sp }, &c.ahead, c.more))
		}
	}
	return err
}

// prefetch reads the beginning of what next returns, unless ahead has it. s.mu is held, but not
// while it reads.
func (s *Store) prefetch(l *log, next func() records.Span, ahead *records.Chunk, tell chan struct{}) error {
	for {
		sp := next()
		if sp.IsEmpty() || ahead.Begins(sp) {
			return nil
		}
		got := records.Chunk{Span: sp}
		ok, err := s.load(l, &got)
		if ok {
			ahead.Free()
			*ahead = got
			notify(tell)
			return nil
		}
		got.Free()
		if err != nil {
			return err
		}
	}
}

// isThirsty says whether some destination has little to send. s.mu is held.
func (s *Store) isThirsty() bool {
	return !s.closed && slices.ContainsFunc(s.cursors, func(c *Cursor) bool { return c.linked && c.todo.Bytes() < thirst })
}

// load reads what is at c.From, in either tier. ok is false if that has changed, is lost, or
// cannot be read now, which is an error. s.mu is held, but not while it reads.
func (s *Store) load(l *log, c *records.Chunk) (ok bool, err error) {
	if l == &s.named && s.recent.take(c, len(s.cursors) > 1) {
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

// sync makes the disk write, once a second, what was written, and returns when to do so again;
// 0: nothing was written.
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

// Close ends the use of the store, once Run and all sessions have ended. What is left goes to
// disk, up to its bound, or stays in memory for the next start; what would be lost with the
// process is dropped and counted. An error says that the disk did not take what it had to.
func (s *Store) Close() error {
	s.mu.Lock()
	for _, l := range s.logs() {
		for _, g := range l.segments {
			g.sealed = true
		}
	}
	s.sweep()
	s.mu.Unlock()
	err := s.moveDown(math.MaxInt, s.fitting)
	s.mu.Lock()
	isEmpty := true // the directory in memory
	isFound := s.memory == nil || s.memory.IsFound()
	for _, l := range s.logs() {
		for _, g := range slices.Clone(l.segments) {
			if _, err := os.Lstat(g.path()); g.dir == nil || err != nil || g.dir != s.disk && !isFound {
				s.drop(g, Shutdown)
			} else if g.dir != s.disk {
				isEmpty = false
			}
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

// trouble is a disk that doesn't work. It is logged once.
type trouble struct {
	until time.Time // no attempt before; zero: the disk works
}

// note notes an error, and returns when to try again.
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
