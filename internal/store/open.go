package store

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Places are where a store keeps its files.
type Places struct {
	// State is a directory on disk that no other process uses. "": what waits ends
	// with the process.
	State string

	// Memory are directories on tmpfs, the best first, in one of which the first
	// tier gets a directory of its own. State may be the last of them: that costs
	// writes. None: what waits in memory ends with the process.
	Memory []string
}

// Open opens the store at some places, with what an earlier one left there. An error
// is one of a directory or a file that is not as it must be.
func Open(at Places, to []Destination, out *slog.Logger) (*Store, error) {
	return openWith(at, to, out, files{})
}

func openWith(at Places, to []Destination, out *slog.Logger, fs files) (*Store, error) {
	s := &Store{
		out: out, files: fs, work: make(chan struct{}, 1), MoreHeld: make(chan struct{}, 1), readers: map[*segment]*os.File{},
	}
	s.named.kind, s.held.kind = named, held
	if at.State != "" {
		s.disk = diskDirectory(at.State)
		if err := makeDirectory(s.disk); err != nil {
			return nil, fmt.Errorf("directory of the spool: %w; remove it, or make it a directory of this user alone", err)
		}
		s.findMemory(at)
	}
	s.memoryState.dir, s.diskState.dir = s.memory, s.disk
	if err := s.recall(to); err != nil {
		return nil, errors.Join(err, s.leave(false))
	}
	if at.State != "" {
		if err := s.adoptOld(at); err != nil {
			return nil, errors.Join(err, s.leave(false))
		}
	}
	return s, nil
}

// recall finds what an earlier process left.
func (s *Store) recall(to []Destination) error {
	st, known, err := s.recallState()
	if err != nil {
		return err
	}
	found, err := s.recallSegments(&st, known)
	if err != nil {
		return err
	}
	s.generation = st.generation
	s.named.tail, s.held.tail = st.tails[0], st.tails[1]
	var lastHeld time.Time
	for _, g := range found {
		if g.kind == held {
			lastHeld = s.place(&s.held.log, g, found)
		} else {
			s.place(&s.named, g, found)
		}
	}
	s.recallPlaces(st, known, to)
	if len(s.held.segments) > 0 {
		s.held.marks = []mark{{lastHeld, s.held.segments[0].base}}
	}
	s.resize()
	s.sweep()
	s.hold()
	s.save()
	for _, c := range s.cursors {
		if n := c.left + s.held.left(); n > 0 {
			s.out.Info("lines found that an earlier process left", "destination", c.Name, "lines", n)
		}
	}
	return nil
}

// recallState returns the newest state in memory or on disk.
func (s *Store) recallState() (st state, known bool, err error) {
	for _, f := range []*stateFile{&s.memoryState, &s.diskState} {
		if f.dir == "" {
			continue
		}
		other, ok, err := f.load()
		if err != nil {
			return st, known, err
		}
		if ok && (!known || other.generation > st.generation) {
			st, known = other, true
		}
	}
	return st, known, nil
}

// recallSegments opens the segments in both tiers, and sorts them.
func (s *Store) recallSegments(st *state, known bool) (found []*segment, err error) {
	ids := map[*segment]uint64{}
	for _, dir := range []string{s.memory, s.disk} {
		if dir == "" {
			continue
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, fmt.Errorf("list the store's directory: %w", err)
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if strings.HasSuffix(e.Name(), segmentSuffix+".new") {
				os.Remove(path)
			}
			name, ok := strings.CutSuffix(e.Name(), segmentSuffix)
			if !ok {
				continue
			}
			if _, digits, ok := strings.Cut(name, "-"); ok && dir == s.memory {
				if b, err := hex.DecodeString(digits); err == nil && len(b) == 8 {
					s.number = max(s.number, binary.BigEndian.Uint64(b))
				}
			}
			id, g := s.recallSegment(path)
			if g == nil {
				continue
			}
			g.onDisk = dir == s.disk
			ids[g] = id
			found = append(found, g)
		}
	}
	if !known { // the newest lines tell whose all are
		var newest *segment
		for _, g := range found {
			if newest == nil || g.born.After(newest.born) {
				newest, st.id = g, ids[g]
			}
		}
	}
	if s.id = st.id; s.id == 0 {
		s.id = randomID()
	}
	s.named.seed, s.held.seed = seed(s.id, named), seed(s.id, held)
	slices.SortFunc(found, func(a, b *segment) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.base.at, b.base.at), compareBool(b.onDisk, a.onDisk))
	})
	kept := found[:0]
	for _, g := range found {
		var last *segment
		if n := len(kept); n > 0 && kept[n-1].kind == g.kind {
			last = kept[n-1]
		}
		switch {
		case ids[g] != s.id:
			s.setAside(g, errors.New("it is of another store"))
		case last != nil && (last.base.at == g.base.at || last.base.line >= g.base.line):
			if last.onDisk == g.onDisk {
				s.setAside(g, errors.New("another is in its place"))
			} else { // it was moved, and is a file that is not in use
				s.close(g)
				s.files.remove(g.path)
			}
		default:
			kept = append(kept, g)
		}
	}
	return kept, nil
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// recallSegment opens one file; nil: it is none of ours, and that was said.
func (s *Store) recallSegment(path string) (id uint64, g *segment) {
	f, err := openOurs(path, os.O_RDWR)
	if err != nil {
		s.out.Warn("file in the store's directory left alone", "err", err)
		return 0, nil
	}
	id, g, err = readSegmentHeader(f)
	if err != nil {
		s.setAside(&segment{path: path, file: f}, err)
		return 0, nil
	}
	g.path, g.file = path, f
	return id, g
}

// setAside renames a file that is no part of the store.
func (s *Store) setAside(g *segment, err error) {
	s.out.Warn("file in the store's directory set aside", "file", g.path+".bad", "err", err)
	s.close(g)
	os.Rename(g.path, g.path+".bad")
}

func (s *Store) close(g *segment) {
	if g.file != nil {
		g.file.Close()
		g.file = nil
	}
}

// place puts a segment into its log, behind those before it. Where it ends is where
// the next begins, if the file has as much; or else what a look at all of it says. It
// returns when its last line came, or the first.
func (s *Store) place(l *log, g *segment, found []*segment) (last time.Time) {
	last = g.born
	i := slices.Index(found, g) + 1
	info, err := g.file.Stat()
	if err == nil && i < len(found) && found[i].kind == g.kind && info.Size() >= segmentHeader+int64(found[i].base.at-g.base.at) {
		g.end = found[i].base
	} else if last, err = g.scan(g.file, l.seed); err != nil {
		s.out.Error("segment cannot be read", "file", g.path, "err", err)
	}
	if g.onDisk {
		s.close(g)
		s.diskUsed += g.size()
	} else if slices.ContainsFunc(found[i:], func(h *segment) bool { return h.kind == g.kind && h.onDisk }) {
		s.close(g)
		g.onDisk = true // in the order of the log it is
		s.diskUsed += g.size()
	} else {
		s.memoryUsed += g.size()
	}
	if g.end.at > l.tail.at {
		l.tail = g.end
	}
	l.segments = append(l.segments, g)
	return last
}

// recallPlaces gives each destination its place. What it needs and is not there is
// lost, and counted.
func (s *Store) recallPlaces(st state, known bool, to []Destination) {
	var names []string
	for _, p := range st.places {
		names = append(names, p.name)
	}
	if from, heir, ok := inherit(names, to); ok {
		st.places[slices.Index(names, from)].name = heir
	}
	heldLost := s.recallSpans(&s.held.log, &st.held, st.tails[1], known)
	s.held.todo = st.held
	wasThere := func(name string) *placeOf {
		for i := range st.places {
			if st.places[i].name == name {
				return &st.places[i]
			}
		}
		return nil
	}
	recall := func(c *Cursor, p *placeOf, known bool) {
		lost := s.recallSpans(&s.named, &p.todo, st.tails[0], known)
		c.fresh, c.left = p.todo, p.todo.lines()
		for _, sp := range p.todo {
			c.bytes += sp.bytes()
		}
		c.excess = c.bytes
		for _, p := range p.again {
			rest := spans{p.span}
			s.lostOf(&s.named, &rest)
			for _, sp := range rest {
				p.span, p.size = sp, int(sp.bytes())
				c.again = append(c.again, p)
			}
		}
		c.books.Adopted = uint64(c.left + s.held.left() + lost + heldLost)
		c.books.Dropped[SpoolFull] += uint64(lost + heldLost)
		if lost+heldLost > 0 {
			s.out.Error("lines of an earlier process are lost", "destination", c.Name, "lines", lost+heldLost)
		}
	}
	for _, d := range to {
		c := s.newCursor(d)
		s.cursors = append(s.cursors, c)
		switch p := wasThere(d.Name); {
		case p != nil:
			recall(c, p, true)
		case known:
			c.books.Adopted = uint64(s.held.left())
		default:
			recall(c, &placeOf{}, false)
		}
	}
	for i := range st.places {
		p := &st.places[i]
		if s.cursor(p.name) != nil {
			continue
		}
		c := s.newCursor(Destination{Name: p.name})
		recall(c, p, true)
		s.out.Info("destination removed", "destination", c.Name, "lines_dropped", c.left+s.held.left())
		s.removed = append(s.removed, c.remove())
	}
}

// recallSpans completes what was to be done when the state was saved: with what was
// put later; or with all, where there is no state. It returns how many lines of it
// are lost, which it takes out.
func (s *Store) recallSpans(l *log, todo *spans, tail place, known bool) (lost int) {
	if !known && len(l.segments) > 0 {
		tail = l.segments[0].base
	}
	todo.remove(span{tail, place{maxPlace, maxPlace}})
	todo.add(span{tail, l.tail})
	return s.lostOf(l, todo)
}

// lostOf takes out of some spans what is in no segment, and returns how many lines
// that is.
func (s *Store) lostOf(l *log, ss *spans) int {
	gone := slices.Clone(*ss)
	for _, g := range l.segments {
		gone.remove(g.span())
	}
	for _, sp := range gone {
		ss.remove(sp)
	}
	return gone.lines()
}

func randomID() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.LittleEndian.Uint64(b[:]) | 1
}

// The names of files beside the segments.
const (
	pointerName   = "memory" // on disk: where the first tier is
	ownerName     = "owner"  // in memory: whose it is, locked
	memoryPrefix  = "prefixproxy-"
	unownedMaxAge = time.Hour
)

// findMemory finds the directory of the first tier, or makes one. Without one, what
// waits there ends with the process, and that is said.
func (s *Store) findMemory(at Places) {
	if b, err := readOurs(filepath.Join(s.disk, pointerName)); err == nil {
		if err := s.useMemory(strings.TrimSpace(string(b)), at.State); err == nil {
			return
		} else if !errors.Is(err, os.ErrNotExist) {
			s.out.Warn("the queue's directory is not usable; what waited there is not found", "err", err)
		}
	}
	for _, base := range at.Memory {
		s.collect(base)
		if err := s.makeMemory(base, at.State); err != nil {
			s.out.Warn("no directory for the queue here", "dir", base, "err", err)
			continue
		}
		if len(at.Memory) > 1 && filepath.Clean(base) == filepath.Clean(at.State) {
			s.out.Warn("the queue is on disk, which costs writes; give the daemon a directory on tmpfs", "dir", s.memory)
		}
		return
	}
	if len(at.Memory) > 0 {
		s.out.Warn("what waits in memory would be lost if the process were killed")
	}
}

// useMemory uses a directory that is there, if it is ours: its owner is named in it.
func (s *Store) useMemory(dir, state string) error {
	if !filepath.IsAbs(dir) || !strings.HasPrefix(filepath.Base(dir), memoryPrefix) {
		return fmt.Errorf("%q is no directory of a queue", dir)
	}
	d, err := openOurs(dir, os.O_RDONLY)
	if err != nil {
		return err
	}
	d.Close()
	f, err := lockOwner(dir)
	if err != nil {
		return err
	}
	if owner, err := readOurs(filepath.Join(dir, ownerName)); err != nil || string(owner) != ownerOf(state) {
		f.Close()
		return fmt.Errorf("%s is of another state directory: %q", dir, owner)
	}
	s.memory, s.owner = dir, f
	return nil
}

// ownerOf is how a state directory is named in the directory of its first tier.
func ownerOf(state string) string {
	abs, err := filepath.Abs(state)
	if err != nil {
		return state
	}
	return abs
}

// lockOwner locks a directory of a first tier.
func lockOwner(dir string) (*os.File, error) {
	f, err := openOurs(filepath.Join(dir, ownerName), os.O_RDWR)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return f, nil
}

// makeMemory makes a directory for the first tier, under a name that nobody can know
// before.
func (s *Store) makeMemory(base, state string) error {
	dir, err := filepath.Abs(filepath.Join(base, fmt.Sprintf("%s%016x", memoryPrefix, randomID())))
	if err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	err = os.WriteFile(filepath.Join(dir, ownerName), []byte(ownerOf(state)), 0o600)
	if err == nil {
		s.owner, err = lockOwner(dir)
	}
	if err == nil {
		pointer := filepath.Join(s.disk, pointerName)
		if err = os.WriteFile(pointer+".new", []byte(dir+"\n"), 0o600); err == nil {
			err = s.files.rename(pointer+".new", pointer)
		}
	}
	if err != nil {
		if s.owner != nil {
			s.owner.Close()
			s.owner = nil
		}
		os.RemoveAll(dir)
		return err
	}
	s.memory = dir
	return nil
}

// collect removes the directories of first tiers whose owners are gone for good: no
// process has them locked, and their state directory is gone, or has another.
func (s *Store) collect(base string) {
	entries, err := os.ReadDir(base)
	if err != nil {
		return
	}
	for _, e := range entries {
		dir := filepath.Join(base, e.Name())
		if !strings.HasPrefix(e.Name(), memoryPrefix) || !e.IsDir() {
			continue
		}
		d, err := openOurs(dir, os.O_RDONLY)
		if err != nil {
			continue // somebody else's
		}
		info, err := d.Stat()
		d.Close()
		if err != nil {
			continue
		}
		_, err = os.Lstat(filepath.Join(dir, ownerName))
		if errors.Is(err, os.ErrNotExist) && time.Since(info.ModTime()) > unownedMaxAge {
			os.RemoveAll(dir) // its making was interrupted
		}
		if abs, err := filepath.Abs(dir); err == nil && isAbandoned(abs) {
			s.removeUnlocked(dir)
		}
	}
}

// removeUnlocked removes an abandoned directory, unless a process still has it. Only
// such a one is locked to see that: another's owner may want it just now.
func (s *Store) removeUnlocked(dir string) {
	f, err := lockOwner(dir)
	if err != nil {
		return
	}
	defer f.Close()
	os.RemoveAll(dir)
	s.out.Info("queue of a daemon that is gone removed", "dir", dir)
}

// isAbandoned says whether the state directory that a first tier belongs to is gone,
// or has another.
func isAbandoned(dir string) bool {
	owner, err := readOurs(filepath.Join(dir, ownerName))
	if err != nil || !filepath.IsAbs(string(owner)) {
		return false
	}
	pointer, err := os.ReadFile(filepath.Join(diskDirectory(string(owner)), pointerName))
	if errors.Is(err, os.ErrNotExist) {
		return true
	}
	return err == nil && strings.TrimSpace(string(pointer)) != dir
}

// leave ends the use of all files. The directory of the first tier goes when it is
// empty.
func (s *Store) leave(isEmpty bool) (err error) {
	for _, l := range []*log{&s.named, &s.held.log} {
		for _, g := range l.segments {
			s.close(g)
		}
	}
	for g := range s.readers {
		s.closeReader(g)
	}
	for _, g := range s.spare {
		s.discard(g)
	}
	s.spare = nil
	s.memoryState.close()
	s.diskState.close()
	if s.memory != "" && isEmpty {
		err = errors.Join(os.RemoveAll(s.memory), ignoreMissing(os.Remove(filepath.Join(s.disk, pointerName))))
	}
	if s.owner != nil {
		s.owner.Close()
	}
	return err
}
