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

// Open opens the store at some places, with what an earlier one left there. An error is about a
// directory or file that is not as it must be.
func Open(at Places, to []Destination, out *slog.Logger) (*Store, error) {
	if at.files == nil {
		at.files = osFiles{}
	}
	s := &Store{tiers: tiers{out: out, files: at.files, dirty: make(chan struct{}, 1)}, work: make(chan struct{}, 1)}
	s.spooler.Store, s.Held.store, s.Held.reader = s, s, newReader(&s.held)
	s.named.kind, s.held.kind, s.most = records.Named, records.Held, math.MaxInt64
	r := recovery{s}
	if at.State != "" {
		if err := r.openDisk(at.State); err != nil {
			return nil, fmt.Errorf("directory of the spool: %w", err)
		}
		r.findMemory(at)
	}
	if err := r.recall(to); err != nil {
		s.abandon()
		return nil, err
	}
	s.SetDestinations(to)
	s.save() // now both files of the state are there, which can be overwritten where there is no more room
	return s, nil
}

// A recovery finds the directories of a store, and what an earlier process left there. Open has one:
// nobody else has the store yet.
type recovery struct{ *Store }

// openDisk opens the directory of the second tier. One that it makes survives a power failure.
func (r recovery) openDisk(path string) error {
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
	if r.disk, err = state.Sub(name); err == nil && missing != nil {
		r.files.sync(path, state) // where that fails, nothing else is safe, and is said then
	}
	if err != nil && !errors.Is(err, syscall.EMFILE) {
		err = fmt.Errorf("%w; remove it, or make it a directory of this user alone", err)
	}
	r.states[onDisk].dir = r.disk
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
func (r recovery) findMemory(at Places) {
	r.memory = memdir.Find(r.disk, at.Memory, r.out)
	if r.memory != nil {
		r.states[inMemory].dir = r.memory.Dir
		if state, _ := filepath.Abs(at.State); len(at.Memory) > 1 && filepath.Dir(r.memory.Path()) == state {
			r.out.Warn("the queue is on disk, which costs writes; give the daemon a directory on tmpfs", "dir", r.memory.Path())
		}
	} else if len(at.Memory) > 0 {
		r.out.Warn("what waits in memory would be lost if the process were killed")
	}
}

// recall fills the logs with what is found, and takes it over for those who need it: where no state says
// who does, those who get every line now.
func (r recovery) recall(to []Destination) error {
	st, err := r.latest()
	r.id, r.generation = st.ID, st.Generation
	for t := range r.states {
		if err == nil && r.states[t].dir != nil {
			err = r.find(tier(t))
		}
	}
	if err != nil {
		return err
	}
	if st.Generation == 0 {
		for _, d := range to {
			st.Places = append(st.Places, placeOf{Name: d.Name})
		}
	}
	r.id = cmp.Or(r.id, rand.Uint64()|1)
	r.named.tail, r.held.tail = st.Named, st.Held
	for _, l := range r.logs() {
		r.order(l)
	}
	r.Held.todo = st.HeldTodo
	r.held.extend(&r.Held.todo, r.held.untold(st, st.Held))
	from := r.named.untold(st, st.Named)
	for _, p := range st.Places {
		r.adopt(p, from)
	}
	r.loseGaps()
	return nil
}

// adopt takes over the place of a destination, which needs all that was put from a place on.
func (r recovery) adopt(p placeOf, from records.Place) {
	c := newCursor(r.Store, Destination{Name: p.Name, To: p.To})
	for idle := range p.Again {
		p.Again[idle].Remove(records.Between(from, records.End))
	}
	c.done = p.Again
	c.wait(records.Span{To: records.End}, again)
	r.named.extend(&p.Todo, from)
	c.todo, c.queues[fresh] = p.Todo, slices.Clone(p.Todo)
	c.books.Adopted = uint64(c.todo.Lines() + r.Held.todo.Lines())
	r.cursors = append(r.cursors, c)
}

// loseGaps drops what is in no segment, and says what was lost, and what is there.
func (r recovery) loseGaps() {
	for _, l := range r.logs() {
		gaps := records.Spans{{To: records.End}}
		for _, g := range l.segments {
			gaps.Remove(g.span())
		}
		for _, gap := range gaps {
			r.lose(l, gap, SpoolFull)
		}
	}
	for _, c := range r.cursors {
		if n := c.books.Dropped[SpoolFull]; n > 0 {
			r.out.Error("lines of an earlier process are lost", "destination", c.Name, "lines", n)
		}
		if n := c.todo.Lines() + r.Held.todo.Lines(); n > 0 {
			r.out.Info("lines found that an earlier process left", "destination", c.Name, "lines", n)
		}
	}
}

// untold returns from where on a state, which was saved at a place, does not tell who needs what: all do.
func (l *log) untold(st state, saved records.Place) records.Place {
	switch border := l.border(); {
	case st.Generation == 0: // there is none
		return l.start(l.segments)
	case st.Partial && border.At < saved.At: // it leaves out what is in memory
		return border
	default:
		return saved
	}
}

// extend makes todo all that was put from a place on.
func (l *log) extend(todo *records.Spans, from records.Place) {
	todo.Remove(records.Between(from, records.End))
	todo.Add(records.Between(from, l.tail))
}

// latest returns the newest state that there is.
func (r recovery) latest() (newest state, err error) {
	for t := range r.states {
		if r.states[t].dir == nil {
			continue
		}
		st, err := r.states[t].load()
		switch {
		case err != nil && !errors.Is(err, errNoState):
			return newest, err
		case st.Generation > newest.Generation:
			newest = st
		case err != nil && newest.Generation == 0: // else memory has it
			r.out.Error("what was sent already is not known, and may be sent again", "dir", r.states[t].dir.Path(), "err", err)
		}
	}
	return newest, nil
}

// find adds the segments in the directory of a tier to their logs. Where no state says whose segments
// count, the first does.
func (r recovery) find(t tier) error {
	dir := r.states[t].dir
	entries, err := os.ReadDir(dir.Path())
	if err != nil {
		return fmt.Errorf("list the store's directory: %w", err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), newSuffix) {
			r.files.remove(dir, e.Name())
		}
		if !strings.HasSuffix(e.Name(), segmentSuffix) {
			continue
		}
		g := &segment{entry: entry{dir: dir, name: e.Name()}, tier: t, sealed: true}
		err := g.read(func(f *os.File) (err error) {
			g.Header, err = records.ReadHeader(f)
			return err
		})
		switch {
		case errors.Is(err, syscall.EMFILE), errors.Is(err, records.ErrLater):
			return fmt.Errorf("%s: %w", g.path(), err)
		case err != nil:
			r.setAside(g, err)
		case r.id != 0 && r.id != g.ID:
			r.setAside(g, errors.New("it is of another store"))
		default:
			r.id = g.ID
			l := r.logOf(g)
			l.segments = append(l.segments, g)
		}
	}
	return nil
}

// setAside renames a file that is not part of the store.
func (r recovery) setAside(g *segment, err error) {
	r.out.Warn("file in the store's directory set aside", "file", g.path()+".bad", "err", err)
	r.files.rename(g.dir, g.name, g.name+".bad")
}

// order puts the segments of a log in order, and finds out where they end.
func (r recovery) order(l *log) {
	slices.SortStableFunc(l.segments, func(a, b *segment) int {
		return cmp.Or(cmp.Compare(a.Base.At, b.Base.At), cmp.Compare(b.tier, a.tier))
	})
	var last *segment
	l.segments = slices.DeleteFunc(l.segments, func(g *segment) bool {
		switch {
		case last == nil || last.Base.Line < g.Base.Line:
			last = g
			return false
		case last.dir == g.dir:
			r.setAside(g, errors.New("another is in its place"))
		default: // it was moved to disk, and is a file that is not in use
			r.discard(g.entry)
		}
		return true
	})
	l.marks = []mark{{time.Now(), l.start(l.segments)}} // as if it came now
	next, t := records.End, inMemory
	for _, g := range slices.Backward(l.segments) {
		r.measure(g, next)
		next, t = g.Base, max(g.tier, t)
		g.tier = t // by its place, wherever its file is
		r.used[t] += g.size()
		if t == onDisk {
			r.unsynced = append(r.unsynced, g) // the last process may have been killed before
		}
	}
	if last != nil && last.end.At > l.tail.At {
		l.tail = last.end
	}
}

// measure finds where a segment ends: where the next one begins, if the file is that long; otherwise the
// whole file is read to find out.
func (r recovery) measure(g *segment, next records.Place) {
	g.end = g.Base
	err := g.read(func(f *os.File) error {
		info, err := f.Stat()
		if err == nil && info.Size() >= g.Offset(next) {
			g.end = next
			return nil
		}
		g.end, err = g.Scan(f)
		return err
	})
	if err != nil {
		r.out.Error("segment cannot be read", "file", g.path(), "err", err)
	}
}
