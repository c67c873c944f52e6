package store

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// This file is what Run does: all that may wait for the disk.

// How often the disk is made to write, and what failed is tried again.
const (
	syncInterval = time.Second
	retry        = time.Second // not longer, however long it has failed: memory fills

	// segmentsAtOnce is how many segments are moved before Run looks at what else
	// there is to do.
	segmentsAtOnce = 16

	maxReaders = 8 // files of the second tier that stay open
)

// step does what there is to do, and returns after which time there will be more; 0:
// when something happens.
func (s *Store) step(now time.Time) time.Duration {
	if s.disk == "" {
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
	path := segmentPath(s.disk, g.kind, g.base.at)
	if err := s.copyDown(g, path); err != nil {
		s.files.remove(path + ".new")
		return fmt.Errorf("spool a segment: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dirty = true
	if g.gone {
		s.trash = append(s.trash, &segment{path: path})
		notify(s.work)
		return nil
	}
	old := *g
	s.memoryUsed -= g.size()
	s.diskUsed += g.size()
	g.file, g.path, g.onDisk, g.dirty = nil, path, true, true
	if old.path != "" && s.maySpare() {
		s.spare = append(s.spare, &old)
	} else {
		s.discard(&old)
	}
	if g.kind == held {
		s.hold()
		notify(s.MoreHeld)
	}
	s.tellAll() // it may be read from now on
	return nil
}

// copyDown writes what is in a segment to a file.
func (s *Store) copyDown(g *segment, path string) error {
	if err := s.files.remove(path + ".new"); err != nil {
		return err
	}
	f, err := s.files.create(path + ".new")
	if err != nil {
		return err
	}
	defer f.Close()
	if s.copies == nil {
		s.copies = make([]byte, 256<<10)
	}
	buf := s.copies
	for at, size := int64(0), g.size(); at < size; {
		n, err := g.file.ReadAt(buf[:min(size-at, int64(len(buf)))], at)
		if n == 0 {
			if errors.Is(err, io.EOF) {
				break // it was cut; who reads it will say so
			}
			return err
		}
		if err := s.files.write(f, path, buf[:n], nil, at); err != nil {
			return err
		}
		at += int64(n)
	}
	return s.files.rename(path+".new", path)
}

// takeOut removes the files that nobody needs any more.
func (s *Store) takeOut() {
	s.mu.Lock()
	trash := s.trash
	s.trash = nil
	s.mu.Unlock()
	for _, g := range trash {
		s.closeReader(g)
		if err := s.files.remove(g.path); err != nil {
			s.out.Warn("file of the spool not removed", "err", err) // the next start will
		}
	}
}

// load reads what is at c.from in memory. It returns false where that has changed, or
// is lost. s.mu is held, but not while it reads.
func (s *Store) load(l *log, c *chunk, apart time.Duration) bool {
	g := l.at(c.from)
	if g == nil || g.onDisk {
		return false
	}
	if c.to.at > g.end.at {
		c.to = g.end
	}
	f := g.file
	s.mu.Unlock()
	err := g.read(f, l.seed, apart, c)
	s.mu.Lock()
	switch {
	case g.gone || g.file != f:
		return false
	case err != nil:
		s.damaged(g, c.from, err)
		return false
	}
	return true
}

// readAhead reads what is to be sent, or named, from disk.
func (s *Store) readAhead() error {
	for more := true; more; {
		s.mu.Lock()
		cursors := append([]*Cursor(nil), s.cursors...)
		s.mu.Unlock()
		var err error
		if more, err = s.readForHeld(); err != nil {
			return err
		}
		for _, c := range cursors {
			is, err := s.readFor(c)
			if err != nil {
				return err
			}
			more = more || is
		}
	}
	return nil
}

// readFor reads a chunk for a cursor. It returns whether there may be more.
func (s *Store) readFor(c *Cursor) (more bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !c.linked || s.closed || c.aheadBytes() >= readAhead {
		return false, nil
	}
	p, from := c.onDisk()
	if from == nowhere {
		return false, nil
	}
	got := chunk{span: p.span}
	ok, err := s.loadDisk(&s.named, &got)
	if !ok || !c.linked || !c.take(&p, got.span, from) {
		putBuffer(got.buf)
		return true, err
	}
	p.size = len(got.data)
	c.ahead = append(c.ahead, ahead{p, got})
	notify(c.more)
	return true, nil
}

// onDisk returns what of the cursor is to be read from disk next.
func (c *Cursor) onDisk() (p piece, from origin) {
	border := c.store.named.border()
	disk := span{to: border}
	for _, p := range c.again {
		if p.from.at < border.at {
			return p, fromAgain
		}
	}
	for _, list := range []struct {
		spans
		origin
	}{{c.backlog, fromBacklog}, {c.fresh, fromFresh}} {
		if sp := list.first().within(disk); !sp.isEmpty() {
			return piece{span: sp}, list.origin
		}
	}
	return p, nowhere
}

// readForHeld reads some held lines, if somebody would name them and somebody be sent
// them. It returns whether there may be more.
func (s *Store) readForHeld() (more bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := &s.held
	sp := h.todo.first().within(span{to: h.border()})
	if !h.asked || sp.isEmpty() || len(h.ahead) > 0 || !s.isThirsty() {
		return false, nil
	}
	got := chunk{span: sp}
	ok, err := s.loadDisk(&h.log, &got)
	if !ok || !h.todo.holds(got.span) {
		putBuffer(got.buf)
		return true, err
	}
	h.todo.remove(got.span)
	h.ahead = append(h.ahead, got)
	h.asked = false
	notify(s.MoreHeld)
	return false, nil
}

// isThirsty says whether somebody has little to be sent. s.mu is held.
func (s *Store) isThirsty() bool {
	for _, c := range s.cursors {
		if c.linked && c.bytes < readAhead && !s.closed {
			return true
		}
	}
	return false
}

// loadDisk reads what is at c.from on disk. It returns false where that has changed, is
// lost, or cannot be read now, which is an error. s.mu is held, but not while it reads.
func (s *Store) loadDisk(l *log, c *chunk) (ok bool, err error) {
	g := l.at(c.from)
	if g == nil || !g.onDisk {
		return false, nil
	}
	if c.to.at > g.end.at {
		c.to = g.end
	}
	apart := time.Duration(0)
	if l.kind == held {
		apart = heldApart
	}
	s.mu.Unlock()
	f, err := s.reader(g)
	if err == nil {
		err = g.read(f, l.seed, apart, c)
	}
	s.mu.Lock()
	switch {
	case g.gone:
		return false, nil
	case isDamage(err):
		s.damaged(g, c.from, err)
		return false, nil
	case err != nil:
		return false, fmt.Errorf("read the spool: %w", err)
	}
	return true, nil
}

// isDamage says whether what could not be read is lost. Any other error may be gone at
// the next attempt.
func isDamage(err error) bool {
	return errors.Is(err, errDamaged) || errors.Is(err, errNotOurs) || errors.Is(err, os.ErrNotExist) ||
		errors.Is(err, syscall.EIO) || errors.Is(err, syscall.ELOOP) || errors.Is(err, syscall.ENXIO)
}

// reader returns the file of a segment on disk.
func (s *Store) reader(g *segment) (*os.File, error) {
	if f := s.readers[g]; f != nil {
		return f, nil
	}
	for other := range s.readers {
		if len(s.readers) < maxReaders {
			break
		}
		s.closeReader(other)
	}
	f, err := openOurs(g.path, os.O_RDONLY)
	if err == nil {
		s.readers[g] = f
	}
	return f, err
}

func (s *Store) closeReader(g *segment) {
	if f := s.readers[g]; f != nil {
		f.Close()
		delete(s.readers, g)
	}
}

// sync makes the disk write what was written, once a second, and returns after which
// time to do so again; 0: nothing was written.
func (s *Store) sync(now time.Time) (next time.Duration, err error) {
	if !s.isDirty() {
		return 0, nil
	}
	if wait := syncInterval - now.Sub(s.synced); wait > 0 {
		return wait, nil
	}
	s.synced = now
	return 0, s.syncNow()
}

// isDirty says whether the disk has, or should have, what is not synced.
func (s *Store) isDirty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dirty || s.generation != s.syncedGeneration && (s.diskUsed > 0 || s.syncedUsed > 0 || s.unsaved)
}

// syncNow makes the disk write what was written.
func (s *Store) syncNow() error {
	s.mu.Lock()
	var dirty []*segment
	for _, l := range []*log{&s.named, &s.held.log} {
		for _, g := range l.segments[:l.onDisk()] {
			if g.dirty {
				dirty = append(dirty, g)
			}
		}
	}
	state, generation, used := slices.Clone(s.encodeState()), s.generation, s.diskUsed
	s.mu.Unlock()
	for _, g := range dirty {
		if err := s.files.syncPath(g.path); err != nil {
			return fmt.Errorf("sync the spool: %w", err)
		}
	}
	if err := s.files.syncPath(s.disk); err != nil {
		return fmt.Errorf("sync the spool: %w", err)
	}
	if err := errors.Join(s.diskState.write(&s.files, state), s.diskState.sync(&s.files)); err != nil {
		return fmt.Errorf("write the spool's state: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range dirty {
		g.dirty = false
	}
	s.dirty, s.syncedGeneration, s.syncedUsed, s.unsaved = false, generation, used, false
	return nil
}

// Close ends the use of the store, when Run and all sessions have ended. What is left
// goes to disk, up to its bound; or else stays in memory for the next start; what the
// end of the process would take is dropped, and counted. An error says that the disk
// did not take what it had to.
func (s *Store) Close() error {
	s.sweepAll()
	err := s.spoolRest()
	s.mu.Lock()
	for _, l := range []*log{&s.named, &s.held.log} {
		for _, g := range slices.Clone(l.segments) {
			if g.path == "" {
				s.loseAtEnd(g)
			}
		}
	}
	s.save()
	isEmpty := true
	for _, g := range slices.Concat(s.named.segments, s.held.segments) {
		isEmpty = isEmpty && filepath.Dir(g.path) != s.memory
	}
	s.mu.Unlock()
	if s.disk != "" && s.generation != s.syncedGeneration {
		err = errors.Join(err, s.syncNow())
	}
	s.takeOut()
	return errors.Join(err, s.leave(isEmpty))
}

// spoolRest moves what is left to disk, as far as it may be there.
func (s *Store) spoolRest() error {
	for s.disk != "" {
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

// sweepAll frees all that nobody needs, the segments that were appended to, too.
func (s *Store) sweepAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range []*log{&s.named, &s.held.log} {
		if g := l.open(); g != nil {
			g.sealed = true
		}
	}
	s.sweep()
}

// loseAtEnd drops what of g the end of the process would take. s.mu is held.
func (s *Store) loseAtEnd(g *segment) {
	if g.kind == held {
		s.held.lose(s, g.span(), Shutdown)
	} else {
		for _, c := range s.cursors {
			c.lose(g.span(), Shutdown)
		}
	}
	s.logOf(g).remove(g)
	s.free(g)
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

// diskDirectory is where, in the state directory, the second tier is.
func diskDirectory(state string) string { return filepath.Join(state, "store") }
