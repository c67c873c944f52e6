package store

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/memdir"
	"github.com/prefixproxy/prefixproxy/internal/records"
	"github.com/prefixproxy/prefixproxy/internal/statedir"
)

// Places are where a store keeps its files.
type Places struct {
	// State is a directory on disk that no other process uses. "": what waits is lost with the
	// process.
	State string

	// Memory are directories on tmpfs, the best first. The first tier gets a directory of its own
	// in one of them. State may be the last of them, at the price of writes. None: what waits in
	// memory is lost with the process.
	Memory []string

	files files // of tests
}

// This file is about what Open does: nobody else has the store before it returns.

// Open opens the store at some places, with what an earlier one left there. An error is about a
// directory or file that is not as it must be.
func Open(at Places, to []Destination, out *slog.Logger) (*Store, error) {
	if at.files == nil {
		at.files = osFiles{}
	}
	s := &Store{tiers: tiers{out: out, files: at.files}, work: make(chan struct{}, 1), MoreHeld: make(chan struct{}, 1)}
	s.dirty, s.most = make(chan struct{}, 1), math.MaxInt64
	s.named.kind, s.held.kind = records.Named, records.Held
	if at.State == "" {
		return s, s.recall(to)
	}
	if err := s.openDisk(at.State); err != nil {
		return nil, fmt.Errorf("directory of the spool: %w", err)
	}
	s.findMemory(at)
	if err := s.recall(to); err != nil {
		s.abandon()
		return nil, err
	}
	s.save() // now both files of the state are there, which can be overwritten where there is no more room
	return s, nil
}

// openDisk opens the directory of the second tier. One that it makes survives a power failure.
func (s *Store) openDisk(path string) error {
	state, err := statedir.Open(path)
	if err != nil {
		return err
	}
	defer state.Close()
	if err := leftBefore(path); err != nil {
		return err
	}
	const name = "store"
	_, missing := os.Lstat(filepath.Join(path, name))
	if s.disk, err = state.Sub(name); err == nil && missing != nil {
		s.files.sync(path, state) // where that fails, nothing else is safe, and is said then
	}
	if err != nil && !errors.Is(err, syscall.EMFILE) {
		err = fmt.Errorf("%w; remove it, or make it a directory of this user alone", err)
	}
	s.states[onDisk].dir = s.disk
	return err
}

// leftBefore returns an error if a version that had no store left lines in the state directory: a
// spool of segments, or a link to the file of its queue. One that had sent everything left neither.
func leftBefore(dir string) error {
	left, _ := os.Readlink(filepath.Join(dir, "queue"))
	if _, err := os.Lstat(left); err != nil || !strings.HasSuffix(left, ".queue") {
		left = ""
	}
	if spool, _ := fs.Glob(os.DirFS(dir), "spool/*.spool"); len(spool) > 0 {
		left = filepath.Join(dir, "spool")
	}
	if left == "" {
		return nil
	}
	return fmt.Errorf("%s has lines of an earlier version, which this one does not read; start that version once more and let it send them, or move it away", left)
}

// findMemory finds the directory of the first tier. Without one, what waits there is lost with
// the process.
func (s *Store) findMemory(at Places) {
	s.memory = memdir.Find(s.disk, at.Memory, s.out)
	if s.memory != nil {
		s.states[inMemory].dir = s.memory.Dir
		if state, _ := filepath.Abs(at.State); len(at.Memory) > 1 && filepath.Dir(s.memory.Path()) == state {
			s.out.Warn("the queue is on disk, which costs writes; give the daemon a directory on tmpfs", "dir", s.memory.Path())
		}
	} else if len(at.Memory) > 0 {
		s.out.Warn("what waits in memory would be lost if the process were killed")
	}
}

// latest returns the newest state that there is, and all segments.
func (s *Store) latest() (newest state, found []*segment, err error) {
	for t := range s.states {
		if s.states[t].dir == nil {
			continue
		}
		st, err := s.states[t].load()
		switch {
		case err != nil && !errors.Is(err, errNoState):
			return newest, nil, err
		case st.Generation > newest.Generation:
			newest = st
		case err != nil && newest.Generation == 0: // else memory has it
			s.out.Error("what was sent already is not known, and may be sent again", "dir", s.states[t].dir.Path(), "err", err)
		}
		if found, err = s.find(tier(t), found); err != nil {
			return newest, nil, err
		}
	}
	return newest, found, nil
}

// recall finds what an earlier process left.
func (s *Store) recall(to []Destination) error {
	st, found, err := s.latest()
	if err != nil {
		return err
	}
	s.generation, s.named.tail, s.held.tail = st.Generation, st.Named, st.Held
	s.recallSegments(found, st.ID)
	if st.Partial { // what is in memory is everybody's, as is what was put since
		st.Named, st.Held = records.Earlier(s.named.border(), st.Named), records.Earlier(s.held.border(), st.Held)
	}
	if st.Generation == 0 { // there was none: all that is there is everybody's
		st.Named, st.Held = s.named.start(s.named.segments), s.held.start(s.held.segments)
		for _, d := range to {
			st.Places = append(st.Places, placeOf{Name: d.Name})
		}
	}
	s.held.todo = st.HeldTodo
	s.held.recall(&s.held.todo, st.Held)
	for _, p := range st.Places {
		s.recallPlace(p, st.Named)
	}
	for _, l := range s.logs() {
		for _, gap := range l.gaps() {
			s.lose(l, gap, SpoolFull)
		}
	}
	for _, c := range s.cursors {
		if n := c.books.Dropped[SpoolFull]; n > 0 {
			s.out.Error("lines of an earlier process are lost", "destination", c.Name, "lines", n)
		}
		if n := c.todo.Lines() + s.held.todo.Lines(); n > 0 {
			s.out.Info("lines found that an earlier process left", "destination", c.Name, "lines", n)
		}
	}
	s.SetDestinations(to)
	return nil
}

// recallPlace makes a cursor for a destination of an earlier process.
func (s *Store) recallPlace(p placeOf, tail records.Place) {
	c := s.newCursor(Destination{Name: p.Name, To: p.To})
	s.cursors = append(s.cursors, c)
	s.named.recall(&p.Todo, tail)
	for i := range p.Again {
		p.Again[i].Remove(records.Between(tail, records.End))
	}
	c.done = p.Again
	c.wait(records.Span{To: records.End}, again)
	for _, sp := range p.Todo {
		c.add(sp, fresh)
	}
	c.books.Adopted = uint64(c.todo.Lines() + s.held.todo.Lines())
}

// recall adds to what was to be done when the state was saved what was put later, after tail.
func (l *log) recall(todo *records.Spans, tail records.Place) {
	todo.Remove(records.Between(tail, records.End))
	todo.Add(records.Between(tail, l.tail))
}

// gaps are what is in no segment.
func (l *log) gaps() records.Spans {
	gaps := records.Spans{{To: records.End}}
	for _, g := range l.segments {
		gaps.Remove(g.span())
	}
	return gaps
}

// recallSegments puts the segments that were found into their logs. id is the store's; 0: the
// first decides whose segments count, and one in memory is found first.
func (s *Store) recallSegments(found []*segment, id uint64) {
	if len(found) > 0 {
		id = cmp.Or(id, found[0].ID)
	}
	s.id = cmp.Or(id, rand.Uint64()|1)
	slices.SortStableFunc(found, func(a, b *segment) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Base.At, b.Base.At), cmp.Compare(b.tier, a.tier))
	})
	kept := found[:0]
	for _, g := range found {
		last := len(kept) - 1
		switch {
		case g.ID != s.id:
			s.setAside(g, errors.New("it is of another store"))
		case last < 0 || kept[last].Kind != g.Kind || kept[last].Base.Line < g.Base.Line:
			kept = append(kept, g)
		case kept[last].dir == g.dir:
			s.setAside(g, errors.New("another is in its place"))
		default: // it was moved to disk, and is a file that is not in use
			s.discard(g.entry)
		}
	}
	for i, g := range kept {
		s.place(g, kept[i+1:])
	}
}

// find appends the segments in the directory of a tier.
func (s *Store) find(t tier, found []*segment) ([]*segment, error) {
	dir := s.states[t].dir
	entries, err := os.ReadDir(dir.Path())
	if err != nil {
		return nil, fmt.Errorf("list the store's directory: %w", err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), newSuffix) {
			s.files.remove(dir, e.Name())
		}
		if !strings.HasSuffix(e.Name(), segmentSuffix) {
			continue
		}
		g := &segment{entry: entry{dir: dir, name: e.Name()}, tier: t, sealed: true}
		err := g.read(func(f *os.File) (err error) {
			g.Header, err = records.ReadHeader(f)
			return err
		})
		switch g.end = g.Base; {
		case errors.Is(err, syscall.EMFILE), errors.Is(err, records.ErrLater):
			return nil, fmt.Errorf("%s: %w", g.path(), err)
		case err != nil:
			s.setAside(g, err)
		default:
			found = append(found, g)
		}
	}
	return found, nil
}

// setAside renames a file that is not part of the store.
func (s *Store) setAside(g *segment, err error) {
	s.out.Warn("file in the store's directory set aside", "file", g.path()+".bad", "err", err)
	s.files.rename(g.dir, g.name, g.name+".bad")
}

// place puts a segment into its log, after those before it. It ends where the next one begins,
// if the file is that long; otherwise the whole file is read to find out.
func (s *Store) place(g *segment, behind []*segment) {
	l := s.logOf(g)
	err := g.read(func(f *os.File) error {
		info, err := f.Stat()
		if err == nil && len(behind) > 0 && behind[0].Kind == g.Kind && info.Size() >= g.Offset(behind[0].Base) {
			g.end = behind[0].Base
			return nil
		}
		g.end, err = g.Scan(f)
		return err
	})
	if err != nil {
		s.out.Error("segment cannot be read", "file", g.path(), "err", err)
	}
	// By its place in the log it may belong to the disk, even if its file is elsewhere.
	if g.tier == onDisk || slices.ContainsFunc(behind, func(h *segment) bool { return h.Kind == g.Kind && h.tier == onDisk }) {
		g.tier = onDisk
		s.unsynced = append(s.unsynced, g) // the last process may have been killed before
	}
	s.used[g.tier] += g.size()
	l.segments = append(l.segments, g)
	l.marks = []mark{{time.Now(), l.segments[0].Base}} // as if it came now
	if g.end.At > l.tail.At {
		l.tail = g.end
	}
}

// abandon closes all files and directories, as the end of the process would.
func (s *Store) abandon() {
	for _, g := range s.segments() {
		g.file.Close()
	}
	for _, e := range s.spare {
		e.file.Close()
	}
	for _, f := range s.states {
		f.files[0].Close()
		f.files[1].Close()
	}
	if s.memory != nil {
		s.memory.Close()
	}
	if s.disk != nil {
		s.disk.Close()
	}
}
