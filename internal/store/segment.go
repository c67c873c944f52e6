package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/statedir"
)

// The format; doc.go draws it.
const (
	magic   = "ppstore\n"
	version = 1

	segmentHeader = 56 // bytes
	recordHeader  = 16 // bytes

	// MaxRecord bounds the lines of a record, in bytes, and so the longest line.
	MaxRecord = 64 << 10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Which log a segment is of.
type kind uint32

const (
	named kind = 1 // lines as they leave
	held  kind = 2 // lines that wait for a name
)

func (k kind) String() string {
	if k == held {
		return "held"
	}
	return "named"
}

// A segment is a file, a part of a log. The store's mutex guards it.
type segment struct {
	id   uint64 // of the store
	kind kind
	seed uint32    // of its records' sums
	base place     // where it begins
	end  place     // behind its last record
	born time.Time // arrival of its first line

	file   *os.File      // nil: on disk, and opened when it is read
	dir    *statedir.Dir // nil: it has no name, and ends with the process
	name   string
	onDisk bool // in the second tier
	sealed bool // no more is appended
	gone   bool // nobody needs it, and others may be in its place
	dirty  bool // not synced
}

func (g *segment) span() span { return span{g.base, g.end} }

// path tells people where the file is.
func (g *segment) path() string {
	if g.dir == nil {
		return "memory"
	}
	return filepath.Join(g.dir.Path(), g.name)
}

// size returns the bytes of the file.
func (g *segment) size() int64 { return segmentHeader + g.span().bytes() }

// offset returns where p is in the file.
func (g *segment) offset(p place) int64 { return segmentHeader + int64(p.at-g.base.at) }

// appendSegmentHeader appends what the file of g begins with.
func appendSegmentHeader(dst []byte, g *segment) []byte {
	start := len(dst)
	dst = append(dst, magic...)
	dst = binary.LittleEndian.AppendUint32(dst, version)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(g.kind))
	dst = binary.LittleEndian.AppendUint64(dst, g.id)
	dst = binary.LittleEndian.AppendUint64(dst, g.base.at)
	dst = binary.LittleEndian.AppendUint64(dst, g.base.line)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(g.born.UnixMilli()))
	dst = binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
	return append(dst, 0, 0, 0, 0)
}

// errNoSegment is the error of reading a file that is no segment.
var errNoSegment = errors.New("no segment of this version")

// readSegmentHeader reads what is known of a segment from its file.
func readSegmentHeader(f io.ReaderAt) (*segment, error) {
	var b [segmentHeader]byte
	if _, err := f.ReadAt(b[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	le := binary.LittleEndian
	if string(b[:8]) != magic || le.Uint32(b[8:]) != version || le.Uint32(b[48:]) != crc32.Checksum(b[:48], castagnoli) {
		return nil, errNoSegment
	}
	g := &segment{
		id:     le.Uint64(b[16:]),
		kind:   kind(le.Uint32(b[12:])),
		base:   place{le.Uint64(b[24:]), le.Uint64(b[32:])},
		born:   time.UnixMilli(int64(le.Uint64(b[40:]))),
		sealed: true,
	}
	if g.kind != named && g.kind != held || g.base.at > maxPlace || g.base.line > g.base.at {
		return nil, errNoSegment
	}
	g.end, g.seed = g.base, seed(g.id, g.kind)
	return g, nil
}

// maxPlace is more than a log will ever have.
const maxPlace = 1 << 62

// seed is what the sums of a store's records go on from.
func seed(id uint64, k kind) uint32 {
	b := binary.LittleEndian.AppendUint64(nil, id)
	return crc32.Checksum(append(b, byte(k)), castagnoli)
}

// sum is the checksum of a record at p: of its place, its header and its lines. It
// is sound nowhere else.
func sum(seed uint32, p place, header, lines []byte) uint32 {
	at := p.at*0x9e3779b97f4a7c15 ^ p.line*0xc2b2ae3d27d4eb4f
	return crc32.Update(crc32.Update(seed^uint32(at>>32), castagnoli, header[:12]), castagnoli, lines)
}

// putRecordHeader writes the header of a record at p into b.
func putRecordHeader(b []byte, seed uint32, p place, lines []byte, n int, age time.Duration) {
	le := binary.LittleEndian
	le.PutUint32(b, uint32(len(lines)))
	le.PutUint32(b[4:], uint32(n))
	le.PutUint32(b[8:], uint32(min(max(0, age.Milliseconds()), 1<<32-1)))
	le.PutUint32(b[12:], sum(seed, p, b, lines))
}

// A record is some lines that came together.
type record struct {
	lines []byte
	age   time.Duration // at which they came after the first of the segment
	next  place         // where the next one begins
}

// parseRecord returns the record at p, with which b begins; false: there is no whole
// and sound one.
func parseRecord(b []byte, seed uint32, p place) (r record, ok bool) {
	if len(b) < recordHeader {
		return r, false
	}
	le := binary.LittleEndian
	size, n := le.Uint32(b), le.Uint32(b[4:])
	if size == 0 || size > MaxRecord || n == 0 || n > size || int(size) > len(b)-recordHeader {
		return r, false
	}
	r.lines = b[recordHeader : recordHeader+size]
	if le.Uint32(b[12:]) != sum(seed, p, b, r.lines) {
		return r, false
	}
	r.age = time.Duration(le.Uint32(b[8:])) * time.Millisecond
	r.next = place{p.at + recordHeader + uint64(size), p.line + uint64(n)}
	return r, true
}

// A chunk is what was read at once: records that follow each other, without their
// headers.
type chunk struct {
	span
	data []byte
	born time.Time // arrival of the first line
	buf  []byte    // in which data is; nil: nothing was read
}

// begins says whether c is the head of sp. What is at a place never changes.
func (c *chunk) begins(sp span) bool { return c.buf != nil && c.from == sp.from && sp.holds(c.span) }

// chunkSize is how much is read at once: any record fits.
const chunkSize = recordHeader + MaxRecord

var buffers = sync.Pool{New: func() any { return new([chunkSize]byte) }}

func getBuffer() []byte { return buffers.Get().(*[chunkSize]byte)[:] }

// putBuffer gives a buffer back; nobody may use it afterwards. nil is none.
func putBuffer(b []byte) {
	if b != nil {
		buffers.Put((*[chunkSize]byte)(b))
	}
}

// errDamaged is the error of reading what is not as it was written.
var errDamaged = errors.New("not as it was written")

// read reads records of g from its file: from c.from, up to c.to and to the size of
// a buffer, which it makes where c has none. Held lines that came much later than the
// first are left. It sets the rest of c.
func (g *segment) read(f io.ReaderAt, c *chunk) error {
	if c.buf == nil {
		c.buf = getBuffer()
	}
	buf := c.buf[:min(c.bytes(), chunkSize)]
	n, err := f.ReadAt(buf, g.offset(c.from))
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	p, out := c.from, recordHeader
	var first time.Duration
	for rest := buf[:n]; ; {
		r, ok := parseRecord(rest, g.seed, p)
		if !ok || p != c.from && g.kind == held && r.age-first > heldApart {
			break
		}
		if p == c.from {
			first = r.age
			out += len(r.lines)
		} else {
			out += copy(buf[out:], r.lines)
		}
		rest = rest[recordHeader+len(r.lines):]
		p = r.next
	}
	if p == c.from {
		return fmt.Errorf("%w at byte %d", errDamaged, g.offset(p))
	}
	c.to, c.data, c.born = p, buf[recordHeader:out], g.born.Add(first)
	return nil
}

// scan finds the end of the last segment, by reading all of it. It returns the
// arrival of the last line.
func (g *segment) scan(f io.ReaderAt) (last time.Time, err error) {
	last = g.born
	buf := getBuffer()
	defer putBuffer(buf)
	for {
		n, err := f.ReadAt(buf, g.offset(g.end))
		if err != nil && !errors.Is(err, io.EOF) {
			return last, err
		}
		rest := buf[:n]
		for {
			r, ok := parseRecord(rest, g.seed, g.end)
			if !ok {
				break
			}
			last, g.end = g.born.Add(r.age), r.next
			rest = rest[recordHeader+len(r.lines):]
		}
		if len(rest) == n {
			return last, nil
		}
	}
}
