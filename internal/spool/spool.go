package spool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"
)

// A Kind says how far the lines of a record have come.
type Kind uint8

const (
	Named Kind = 1 // as they leave
	Raw   Kind = 2 // checked, and held while there was no name
)

// A Record is what one Append put into the spool.
type Record struct {
	Kind  Kind
	Born  time.Time // to the millisecond
	Lines int
	Data  []byte // whole lines, each ended by '\n'

	number uint64 // of the records that Next has given out, from 1 on
}

// Stats are what is not committed, given out or not.
type Stats struct {
	Lines  int
	Bytes  int64     // of these lines
	Disk   int64     // the sum of the files: what the bound bounds
	Oldest time.Time // Born of the oldest; zero: there is none
}

// ErrTooLarge is the error of Append for a record that is larger than the bound.
var ErrTooLarge = errors.New("the record is larger than the spool")

// Corrupt is the error of Next for lines that were in the spool and can no
// longer be read. They are skipped and not in the Stats any more: the caller
// books them as lost, and asks again.
type Corrupt struct {
	File   string
	Offset int64 // of the record
	Lines  int
	Err    error
}

func (c *Corrupt) Error() string {
	return fmt.Sprintf("spool segment %s: %d lines lost at offset %d: %v", c.File, c.Lines, c.Offset, c.Err)
}

func (c *Corrupt) Unwrap() error { return c.Err }

// A Spool keeps lines on disk. One goroutine owns it; Stats may be called by
// any.
type Spool struct {
	dir        string
	bound      int64 // of disk
	segmentMax int64 // a segment that would outgrow it is followed by another

	segments []*segment // in the order of their sequences
	next     uint64     // the sequence of the next segment
	disk     int64      // the sum of the files
	dirDirty bool       // files were made since the last Sync

	writer segmentWriter // of the last segment; nil: the next Append begins another
	buf    []byte        // what is written next
	create func(path string) (segmentWriter, error)

	reader   *os.File // of the segment from which Next gives out; nil: not open
	readerOf *segment
	peeked   header // the header at peekedAt
	peekedAt position
	scratch  [recordHeader]byte

	held      tally   // not committed
	given     []given // by Next, and not committed; the oldest first
	gone      uint64  // how many records were given out before these
	committed position
	cursor    cursor

	mu    sync.Mutex
	stats Stats // guarded by mu
}

// given is a record that Next has given out.
type given struct {
	tally
	born    time.Time
	through position // what is committed with it: damage behind it, too
}

// A segmentWriter is the file of the segment that is appended to.
type segmentWriter interface {
	io.WriterAt
	io.Closer
	Truncate(size int64) error
	Sync() error
}

func newSpool(dir string, maxBytes int64) *Spool {
	s := &Spool{dir: dir, disk: cursorSize, cursor: cursor{dir: dir}, create: createSegment}
	s.Resize(maxBytes)
	return s
}

func createSegment(path string) (segmentWriter, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}

// Resize changes the bound. Where less is allowed than there is, the oldest go
// with the next Append.
func (s *Spool) Resize(maxBytes int64) {
	const mib = 1 << 20
	s.bound = maxBytes
	s.segmentMax = min(max(maxBytes/64, mib), 16*mib)
	s.segmentMax = min(s.segmentMax, maxBytes/4) // so that a small spool loses a quarter at a time
}

// Append writes data, which holds that many whole lines, each ended by '\n',
// and was born at that time. It only reads data. Where the bound asks for it,
// the oldest segment goes first: dropped counts its lines that Next has not
// given out. With an error nothing was appended, though lines may have been
// dropped: the caller keeps its lines and tries again, unless the error is
// ErrTooLarge.
func (s *Spool) Append(kind Kind, born time.Time, lines int, data []byte) (dropped int, err error) {
	defer s.publish()
	h := header{kind: kind, tally: tally{lines, int64(len(data))}, born: born.UnixMilli()}
	if !h.possible() || data[len(data)-1] != '\n' {
		return 0, fmt.Errorf("append to the spool: %d lines of kind %d in %d bytes are no whole lines", lines, kind, len(data))
	}
	if cursorSize+segmentHeader+h.size() > s.bound {
		return 0, ErrTooLarge
	}
	if dropped, err = s.makeRoom(h.size()); err != nil {
		return dropped, err
	}
	if err := s.openWriter(h.size()); err != nil {
		return dropped, err
	}
	return dropped, s.write(h, data)
}

// makeRoom removes the oldest segments until a record of that size, in a
// segment of its own, would be within the bound.
func (s *Spool) makeRoom(size int64) (dropped int, err error) {
	for s.disk+segmentHeader+size > s.bound && len(s.segments) > 0 {
		unread := s.segments[0].unread
		if err := s.removeOldest(); err != nil {
			return dropped, err
		}
		s.held.sub(unread)
		dropped += unread.lines
	}
	return dropped, nil
}

// openWriter sees to it that the last segment has room for a record of that
// size.
func (s *Spool) openWriter(size int64) error {
	if s.writer != nil {
		last := s.segments[len(s.segments)-1]
		if last.size == 0 || last.size+size <= s.segmentMax {
			return nil
		}
		s.closeWriter()
	}
	g := newSegment(s.dir, s.next)
	s.next++
	w, err := s.create(g.path)
	if err != nil {
		return fmt.Errorf("make a spool segment: %w", err)
	}
	s.writer, s.dirDirty = w, true
	s.segments = append(s.segments, g)
	return nil
}

// write puts a record behind the last segment, in one call, with the segment's
// header if it is the first. When the call fails, what it has written is taken
// back, or at least never appended to.
func (s *Spool) write(h header, data []byte) error {
	g := s.segments[len(s.segments)-1]
	s.buf = s.buf[:0]
	if g.size == 0 {
		s.buf = appendSegmentHeader(s.buf, g.sequence)
	}
	s.buf = g.appendRecord(s.buf, h, data)
	g.dirty = true
	n, err := s.writer.WriteAt(s.buf, g.size)
	if err != nil {
		if n > 0 && s.writer.Truncate(g.size) != nil {
			s.grow(g, n)
			s.closeWriter()
		}
		return fmt.Errorf("write to spool segment %s: %w", g.path, err)
	}
	s.grow(g, n)
	g.end = g.size
	g.unread.add(h.tally)
	s.held.add(h.tally)
	return nil
}

func (s *Spool) grow(g *segment, n int) {
	g.size += int64(n)
	s.disk += int64(n)
}

func (s *Spool) closeWriter() {
	if s.writer != nil {
		s.writer.Close() // Sync asks for what close would tell
		s.writer = nil
	}
}

// Next gives out the oldest record that it has not given out yet; its lines are
// appended to dst, and Record.Data is the whole. Without one the error is
// io.EOF. *Corrupt tells of lines that are skipped. After any other error the
// same record is tried again.
func (s *Spool) Next(dst []byte) (Record, error) {
	g := s.unread()
	if g == nil {
		return Record{}, io.EOF
	}
	h, err := s.peek(g)
	if damage(err) {
		s.abandon(g)
		return Record{}, s.skip(g, g.unread, g.end, err)
	}
	if err != nil {
		return Record{}, fmt.Errorf("read spool segment %s: %w", g.path, err)
	}
	end := g.read + h.size()
	dst = slices.Grow(dst, int(h.bytes))
	data := dst[len(dst) : len(dst)+int(h.bytes)]
	_, err = s.reader.ReadAt(data, end-h.bytes)
	if err == nil && !h.describes(data) {
		err = errUnsound
	}
	if damage(err) {
		return Record{}, s.skip(g, h.tally, end, err)
	}
	if err != nil {
		return Record{}, fmt.Errorf("read spool segment %s: %w", g.path, err)
	}

	g.read = end
	g.unread.sub(h.tally)
	born := time.UnixMilli(h.born)
	s.given = append(s.given, given{h.tally, born, position{g.sequence, end}})
	return Record{
		Kind:   h.kind,
		Born:   born,
		Lines:  h.lines,
		Data:   dst[:len(dst)+len(data)],
		number: s.gone + uint64(len(s.given)),
	}, nil
}

// unread returns the oldest segment of which not all was given out, or nil.
func (s *Spool) unread() *segment {
	for _, g := range s.segments {
		if g.read < g.end {
			return g
		}
	}
	return nil
}

// peek returns the header of the first record in g that was not given out.
func (s *Spool) peek(g *segment) (header, error) {
	at := position{g.sequence, g.read}
	if s.peekedAt == at {
		return s.peeked, nil
	}
	if s.readerOf != g {
		s.closeReader()
		f, err := os.Open(g.path)
		if err != nil {
			return header{}, err
		}
		s.reader, s.readerOf = f, g
	}
	h, err := g.header(s.reader, g.read, g.end, s.scratch[:])
	if err == nil {
		s.peeked, s.peekedAt = h, at
	}
	return h, err
}

// skip goes on at offset to of g. What is lost before it counts as committed
// when all that was given out before it is.
func (s *Spool) skip(g *segment, lost tally, to int64, err error) *Corrupt {
	defer s.publish()
	c := &Corrupt{File: g.path, Offset: g.read, Lines: lost.lines, Err: err}
	g.read = to
	g.unread.sub(lost)
	s.held.sub(lost)
	through := position{g.sequence, to}
	if n := len(s.given); n > 0 {
		s.given[n-1].through = through
		return c
	}
	s.committed = through
	// What fails here is done by the next Commit.
	_ = s.writeCursor()
	_ = s.removeCommitted()
	return c
}

// abandon has the next Append begin a segment, if g is the one that it would go
// to: behind a damaged header no Open would find it.
func (s *Spool) abandon(g *segment) {
	if g == s.segments[len(s.segments)-1] {
		s.closeWriter()
	}
}

func (s *Spool) closeReader() {
	if s.reader != nil {
		s.reader.Close()
		s.reader, s.readerOf = nil, nil
	}
}

// Commit says that r, and all that Next gave out before it, is delivered. It
// takes effect even with an error, which is that the disk does not know: the
// next Commit tries again, and the records come once more if the process ends
// before.
func (s *Spool) Commit(r Record) error {
	if r.number <= s.gone {
		return nil
	}
	n := int(r.number - s.gone)
	if n > len(s.given) {
		return fmt.Errorf("commit to the spool: record %d was not given out", r.number)
	}
	defer s.publish()
	for _, g := range s.given[:n] {
		s.held.sub(g.tally)
	}
	s.committed = s.given[n-1].through
	s.given = slices.Delete(s.given, 0, n)
	s.gone = r.number
	return errors.Join(s.writeCursor(), s.removeCommitted())
}

func (s *Spool) writeCursor() error {
	made, err := s.cursor.write(s.committed)
	s.dirDirty = s.dirDirty || made
	return err
}

// removeCommitted removes the segments all of whose records are committed.
func (s *Spool) removeCommitted() error {
	for len(s.segments) > 0 {
		g := s.segments[0]
		if s.committed.sequence < g.sequence || s.committed.sequence == g.sequence && s.committed.offset < g.end {
			return nil
		}
		if err := s.removeOldest(); err != nil {
			return err
		}
	}
	return nil
}

func (s *Spool) removeOldest() error {
	g := s.segments[0]
	if err := os.Remove(g.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove a spool segment: %w", err)
	}
	if len(s.segments) == 1 {
		s.closeWriter()
	}
	if s.readerOf == g {
		s.closeReader()
	}
	s.disk -= g.size
	s.segments = slices.Delete(s.segments, 0, 1)
	return nil
}

// Sync makes what was appended and committed since the last Sync outlive a
// power failure. With an error that is in doubt for all of it.
func (s *Spool) Sync() error {
	for i, g := range s.segments {
		if !g.dirty {
			continue
		}
		if err := s.syncSegment(g, i == len(s.segments)-1); err != nil {
			return fmt.Errorf("sync spool segment %s: %w", g.path, err)
		}
		g.dirty = false
	}
	if s.dirDirty {
		if err := syncPath(s.dir); err != nil {
			return fmt.Errorf("sync the spool directory: %w", err)
		}
		s.dirDirty = false
	}
	return s.cursor.sync()
}

func (s *Spool) syncSegment(g *segment, last bool) error {
	if last && s.writer != nil {
		return s.writer.Sync()
	}
	return syncPath(g.path)
}

// Close syncs and closes the files. The spool is not used afterwards.
func (s *Spool) Close() error {
	err := s.Sync()
	s.closeWriter()
	s.closeReader()
	s.cursor.close()
	return err
}

// Stats returns what is not committed. Any goroutine may call it.
func (s *Spool) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

// publish is called whenever what Stats tells may have changed.
func (s *Spool) publish() {
	oldest := s.oldest()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats = Stats{Lines: s.held.lines, Bytes: s.held.bytes, Disk: s.disk, Oldest: oldest}
}

func (s *Spool) oldest() time.Time {
	if len(s.given) > 0 {
		return s.given[0].born
	}
	g := s.unread()
	if g == nil {
		return time.Time{}
	}
	h, err := s.peek(g)
	if err != nil {
		return s.stats.Oldest // Next will tell what is wrong
	}
	return time.UnixMilli(h.born)
}
