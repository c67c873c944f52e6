// Package records is the format of the files in which a store keeps lines: a header and
// then records, each of which is valid only at its own place in its own store. The
// contents of such files are counted in places and spans.
//
// All integers are little endian, all sums are CRC-32C:
//
//	+-------------+------------+---------+-------+--------+----------+---------+--------+---+---
//	| "ppstore\n" | version: 4 | kind: 4 | id: 8 | at: 8  | line: 8  | born: 8 | sum: 4 | 0 | records
//	+-------------+------------+---------+-------+--------+----------+---------+--------+---+---
//	               of the      named or   of the   place of its        Unix ms   of the 48
//	               format      held       store    first record                  before it
//
// A record; its sum goes on from the store's id, the kind and its place:
//
//	+-----------+----------+--------+--------+---------
//	| length: 4 | lines: 4 | age: 4 | sum: 4 | lines …    age: ms after the segment's born
//	+-----------+----------+--------+--------+---------
//
// # Not promised
//
// That anything is found after damage.
package records

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

const (
	magic = "ppstore\n"

	// Version is that of the format. Before 2, a record had 64 KiB at most.
	Version = 2

	// HeaderSize is that of a segment's header, and RecordHeader that of a record's,
	// in bytes.
	HeaderSize   = 56
	RecordHeader = 16

	// MaxRecord bounds the lines of a record, in bytes, and so the longest line.
	MaxRecord = 128 << 10

	// ChunkSize is how much is read at once: any record fits.
	ChunkSize = RecordHeader + MaxRecord

	// apart is how far apart held lines may have come that are read at once.
	apart = 100 * time.Millisecond
)

// A Kind says which log a segment is of.
type Kind uint32

// The kinds.
const (
	Named Kind = 1 // lines as they leave
	Held  Kind = 2 // lines that wait for a name
)

func (k Kind) String() string {
	if k == Held {
		return "held"
	}
	return "named"
}

var (
	le         = binary.LittleEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// A Header is what a segment begins with.
type Header struct {
	ID   uint64 // of the store
	Kind Kind
	Base Place     // where it begins
	Born time.Time // arrival of its first line

	seed uint32 // from which the sums of its records go on
}

// Append appends what the file begins with. Only then, records can be put.
func (h *Header) Append(dst []byte) []byte {
	start := len(dst)
	dst = append(dst, magic...)
	dst = le.AppendUint32(dst, Version)
	dst = le.AppendUint32(dst, uint32(h.Kind))
	dst = le.AppendUint64(dst, h.ID)
	dst = le.AppendUint64(dst, h.Base.At)
	dst = le.AppendUint64(dst, h.Base.Line)
	dst = le.AppendUint64(dst, uint64(h.Born.UnixMilli()))
	h.seed = seedOf(dst[start:])
	dst = le.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
	return append(dst, 0, 0, 0, 0)
}

// seedOf returns the seed of a header's bytes.
func seedOf(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[16:24], castagnoli), castagnoli, b[12:13])
}

// errNoSegment is the error of reading a file that is no segment.
var errNoSegment = errors.New("no segment of a store")

// ErrLater is the error of a file that a later version has written.
var ErrLater = errors.New("written by a later version; start that version and let it send what is there, or move the directory away")

// ReadHeader reads what a file begins with.
func ReadHeader(f io.ReaderAt) (h Header, err error) {
	var b [HeaderSize]byte
	if _, err := f.ReadAt(b[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return h, err
	}
	h = Header{
		ID:   le.Uint64(b[16:]),
		Kind: Kind(le.Uint32(b[12:])),
		Base: Place{le.Uint64(b[24:]), le.Uint64(b[32:])},
		Born: time.UnixMilli(int64(le.Uint64(b[40:]))),
		seed: seedOf(b[:]),
	}
	version, isWhole := le.Uint32(b[8:]), le.Uint32(b[48:]) == crc32.Checksum(b[:48], castagnoli)
	switch {
	case string(b[:8]) != magic, !isWhole, version == 0:
		return h, errNoSegment
	case version > Version:
		return h, ErrLater
	case h.Kind != Named && h.Kind != Held, !h.Base.IsSound():
		return h, errNoSegment
	}
	return h, nil
}

// Offset returns where p is in the file.
func (h *Header) Offset(p Place) int64 { return HeaderSize + int64(p.At-h.Base.At) }

// PutRecord writes the header of a record at p into b, which n lines follow that came at
// born.
func (h *Header) PutRecord(b []byte, p Place, lines []byte, n int, born time.Time) {
	le.PutUint32(b, uint32(len(lines)))
	le.PutUint32(b[4:], uint32(n))
	le.PutUint32(b[8:], uint32(min(max(0, born.Sub(h.Born).Milliseconds()), 1<<32-1)))
	le.PutUint32(b[12:], h.sum(p, b, lines))
}

// sum is the checksum of a record at p: of its place, its header and its lines.
func (h *Header) sum(p Place, header, lines []byte) uint32 {
	at := p.At*0x9e3779b97f4a7c15 ^ p.Line*0xc2b2ae3d27d4eb4f
	return crc32.Update(crc32.Update(h.seed^uint32(at>>32), castagnoli, header[:12]), castagnoli, lines)
}

// A record is some lines that came together.
type record struct {
	lines []byte
	age   time.Duration // at which they came after the first of the segment
	next  Place         // where the next one begins
}

// parse returns the record at p, with which b begins; false: there is no whole and
// sound one.
func (h *Header) parse(b []byte, p Place) (r record, ok bool) {
	if len(b) < RecordHeader {
		return r, false
	}
	size, n := le.Uint32(b), le.Uint32(b[4:])
	if size == 0 || size > MaxRecord || n == 0 || n > size || int(size) > len(b)-RecordHeader {
		return r, false
	}
	r.lines = b[RecordHeader : RecordHeader+size]
	if le.Uint32(b[12:]) != h.sum(p, b, r.lines) {
		return r, false
	}
	r.age = time.Duration(le.Uint32(b[8:])) * time.Millisecond
	r.next = Place{p.At + RecordHeader + uint64(size), p.Line + uint64(n)}
	return r, true
}

// A Chunk is what was read at once: records that follow each other, without their
// headers.
type Chunk struct {
	Span
	Data []byte
	Born time.Time // arrival of the first line
	buf  *buffer   // in which Data is; nil: nothing was read
}

// A buffer is what one or more chunks hold their data in.
type buffer struct {
	sharers atomic.Int32 // chunks, but one
	bytes   [ChunkSize]byte
}

var buffers = sync.Pool{New: func() any { return new(buffer) }}

// Free ends the use of c's data; c is empty then.
func (c *Chunk) Free() {
	if c.buf != nil && c.buf.sharers.Add(-1) < 0 {
		c.buf.sharers.Store(0)
		buffers.Put(c.buf)
	}
	*c = Chunk{}
}

// Append adds lines, which are s, to what c has; false: they do not follow it, or there
// is no room.
func (c *Chunk) Append(s Span, lines []byte, born time.Time) bool {
	if len(c.Data) == 0 {
		c.prepare()
		c.Span, c.Data, c.Born = Between(s.From, s.From), c.buf.bytes[:0], born
	}
	if c.To != s.From || len(c.Data)+len(lines) > MaxRecord {
		return false
	}
	c.To, c.Data = s.To, append(c.Data, lines...)
	return true
}

// Share makes c the same as other, in one buffer: nothing more may be added to either.
func (c *Chunk) Share(other *Chunk) {
	c.Free()
	other.buf.sharers.Add(1)
	*c = *other
}

func (c *Chunk) prepare() {
	if c.buf == nil {
		c.buf = buffers.Get().(*buffer)
	}
}

// Begins says whether c is the head of s. What is at a place never changes.
func (c *Chunk) Begins(s Span) bool { return len(c.Data) > 0 && c.From == s.From && s.Holds(c.Span) }

// ErrDamaged is the error of reading what is not as it was written.
var ErrDamaged = errors.New("not as it was written")

// Read reads records of a file: from c.From, up to c.To and to the size of a buffer.
// Held lines that came much later than the first are left. It sets the rest of c.
func (h *Header) Read(f io.ReaderAt, c *Chunk) error {
	c.prepare()
	buf := c.buf.bytes[:min(c.Bytes(), ChunkSize)]
	n, err := f.ReadAt(buf, h.Offset(c.From))
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	p, out := c.From, RecordHeader
	var first time.Duration
	for rest := buf[:n]; ; {
		r, ok := h.parse(rest, p)
		if !ok || p != c.From && h.Kind == Held && r.age-first > apart {
			break
		}
		if p == c.From {
			first = r.age
			out += len(r.lines)
		} else {
			out += copy(buf[out:], r.lines)
		}
		rest = rest[RecordHeader+len(r.lines):]
		p = r.next
	}
	if p == c.From {
		return fmt.Errorf("%w at byte %d", ErrDamaged, h.Offset(p))
	}
	c.To, c.Data, c.Born = p, buf[RecordHeader:out], h.Born.Add(first)
	return nil
}

// Scan finds where the last record ends, by reading all of them.
func (h *Header) Scan(f io.ReaderAt) (end Place, err error) {
	end = h.Base
	buf := buffers.Get().(*buffer)
	defer buffers.Put(buf)
	for {
		n, err := f.ReadAt(buf.bytes[:], h.Offset(end))
		if err != nil && !errors.Is(err, io.EOF) {
			return end, err
		}
		rest := buf.bytes[:n]
		for {
			r, ok := h.parse(rest, end)
			if !ok {
				break
			}
			end = r.next
			rest = rest[RecordHeader+len(r.lines):]
		}
		if len(rest) == n {
			return end, nil
		}
	}
}
