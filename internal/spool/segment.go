package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

const (
	magic   = "ppspool\n"
	version = 1

	segmentHeader = 24 // bytes
	recordHeader  = 25 // bytes

	segmentSuffix = ".spool"
	asideSuffix   = ".bad"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errUnsound is the error of reading a record that is not as it was written.
var errUnsound = errors.New("wrong checksum")

// A tally is an amount of lines.
type tally struct {
	lines int
	bytes int64
}

func (t *tally) add(u tally) { t.lines += u.lines; t.bytes += u.bytes }
func (t *tally) sub(u tally) { t.lines -= u.lines; t.bytes -= u.bytes }

// A segment is what we know of one file:
//
//	0 … segmentHeader … read … end … size
//	                    └ unread ┘   └ not records
type segment struct {
	path     string
	sequence uint64
	seed     uint32 // the sum of its header
	size     int64  // of the file
	read     int64  // where the first record begins that was not given out
	end      int64  // of the last record
	unread   tally
	dirty    bool // written since the last Sync
}

func newSegment(dir string, sequence uint64) *segment {
	header := appendSegmentHeader(nil, sequence)
	return &segment{
		path:     filepath.Join(dir, segmentName(sequence)),
		sequence: sequence,
		seed:     binary.LittleEndian.Uint32(header[segmentHeader-4:]),
		read:     segmentHeader,
		end:      segmentHeader,
	}
}

func segmentName(sequence uint64) string {
	return fmt.Sprintf("%016x", sequence) + segmentSuffix
}

// parseSegmentName returns the sequence in the name of a file; false: it is not
// a name of ours. The last sequence has no successor and is not one.
func parseSegmentName(name string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok {
		return 0, false
	}
	sequence, err := strconv.ParseUint(digits, 16, 64)
	return sequence, err == nil && sequence < math.MaxUint64 && segmentName(sequence) == name
}

func appendSegmentHeader(dst []byte, sequence uint64) []byte {
	start := len(dst)
	dst = append(dst, magic...)
	dst = binary.LittleEndian.AppendUint32(dst, version)
	dst = binary.LittleEndian.AppendUint64(dst, sequence)
	return binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
}

// A header tells of one record.
type header struct {
	kind  Kind
	tally        // lines, and bytes of data
	born  int64  // Unix milliseconds
	sum   uint32 // of data
}

// appendRecord appends the header h, with the sum of data in it, and data.
func (g *segment) appendRecord(dst []byte, h header, data []byte) []byte {
	start := len(dst)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(h.bytes))
	dst = append(dst, byte(h.kind))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(h.lines))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(h.born))
	dst = binary.LittleEndian.AppendUint32(dst, crc32.Checksum(data, castagnoli))
	dst = binary.LittleEndian.AppendUint32(dst, crc32.Update(g.seed, castagnoli, dst[start:]))
	return append(dst, data...)
}

// header reads the header of the record at offset at, by way of scratch, which
// holds at least recordHeader bytes. The record ends at limit at the latest, or
// the error is errUnsound.
func (g *segment) header(f io.ReaderAt, at, limit int64, scratch []byte) (header, error) {
	b := scratch[:recordHeader]
	if _, err := f.ReadAt(b, at); err != nil {
		return header{}, err
	}
	if binary.LittleEndian.Uint32(b[21:]) != crc32.Update(g.seed, castagnoli, b[:21]) {
		return header{}, errUnsound
	}
	h := header{
		kind:  Kind(b[4]),
		tally: tally{lines: int(binary.LittleEndian.Uint32(b[5:])), bytes: int64(binary.LittleEndian.Uint32(b))},
		born:  int64(binary.LittleEndian.Uint64(b[9:])),
		sum:   binary.LittleEndian.Uint32(b[17:]),
	}
	if !h.possible() || at+h.size() > limit {
		return header{}, errUnsound
	}
	return h, nil
}

// possible tells whether lines of that number could have that many bytes.
func (h header) possible() bool {
	return (h.kind == Named || h.kind == Raw) &&
		h.lines > 0 && int64(h.lines) <= h.bytes && h.bytes <= math.MaxInt32
}

// size returns the bytes of the record on disk.
func (h header) size() int64 { return recordHeader + h.bytes }

// describes tells whether data is what the header was written for.
func (h header) describes(data []byte) bool {
	return crc32.Checksum(data, castagnoli) == h.sum && data[len(data)-1] == '\n'
}

// walk goes over the record headers from offset from to where no whole record
// follows; read, end and unread tell what it found. With verify it reads the
// data too, and end is behind the last record that is sound. An error is one of
// reading that may be gone at the next attempt.
func (g *segment) walk(f io.ReaderAt, from int64, verify bool) error {
	g.read, g.end = from, from
	scratch := make([]byte, recordHeader)
	var data []byte
	var doubtful tally
	for at := from; at < g.size; {
		h, err := g.header(f, at, g.size, scratch)
		if damage(err) {
			return nil
		}
		if err != nil {
			return err
		}
		doubtful.add(h.tally)
		at += h.size()
		if verify {
			data = slices.Grow(data[:0], int(h.bytes))[:h.bytes]
			_, err := f.ReadAt(data, at-h.bytes)
			if err != nil && !damage(err) {
				return err
			}
			if err != nil || !h.describes(data) {
				continue
			}
		}
		g.end = at
		g.unread.add(doubtful)
		doubtful = tally{}
	}
	return nil
}

// damage tells whether what could not be read is lost: it was not what had been
// written, or the disk or somebody else has taken it. Any other error may be
// gone at the next attempt.
func damage(err error) bool {
	return errors.Is(err, errUnsound) || errors.Is(err, io.EOF) ||
		errors.Is(err, syscall.EIO) || errors.Is(err, fs.ErrNotExist)
}
