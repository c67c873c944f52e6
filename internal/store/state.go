package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"

	"github.com/prefixproxy/prefixproxy/internal/records"
	"github.com/prefixproxy/prefixproxy/internal/statedir"
)

// A state is what a store remembers beside the lines: which of them each destination
// still needs.
type state struct {
	id         uint64
	generation uint64
	tails      [2]records.Place // of the named log and of the held one
	held       records.Spans
	places     []placeOf
}

// placeOf is the place of one destination.
type placeOf struct {
	name  string
	todo  records.Spans // not delivered
	again []part        // delivered, and to be sent again
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const (
	stateMagic  = "ppstate\n"
	stateHeader = 40 // bytes
)

// encodeState returns what is to be saved, until the next call. s.mu is held.
func (s *Store) encodeState() []byte {
	b := append(s.stateBuffer[:0], make([]byte, stateHeader)...)
	b = appendPlace(appendPlace(b, s.named.tail), s.held.tail)
	b = appendSpans(b, s.held.all())
	b = binary.AppendUvarint(b, uint64(len(s.cursors)))
	for _, c := range s.cursors {
		b = binary.AppendUvarint(b, uint64(len(c.Name)))
		b = append(b, c.Name...)
		b = appendSpans(b, c.undelivered())
		again := 0
		for _, p := range c.parts {
			if p.delivered && !p.lost {
				again++
			}
		}
		b = binary.AppendUvarint(b, uint64(again))
		for _, p := range c.parts {
			if p.delivered && !p.lost {
				b = append(appendSpan(b, p.Span), p.idle)
			}
		}
	}
	s.stateBuffer = b
	return sealState(b, s.generation, s.id)
}

// sealState writes the header of the state in b.
func sealState(b []byte, generation, id uint64) []byte {
	le := binary.LittleEndian
	copy(b, stateMagic)
	le.PutUint32(b[8:], records.Version)
	le.PutUint32(b[12:], uint32(len(b)))
	le.PutUint64(b[16:], generation)
	le.PutUint64(b[24:], id)
	le.PutUint32(b[36:], crc32.Checksum(b[stateHeader:], castagnoli))
	le.PutUint32(b[32:], crc32.Checksum(b[:32], castagnoli))
	return b
}

func appendPlace(b []byte, p records.Place) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, p.At), p.Line)
}

func appendSpan(b []byte, s records.Span) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(appendPlace(b, s.From), uint64(s.Bytes())), uint64(s.Lines()))
}

func appendSpans(b []byte, ss records.Spans) []byte {
	b = binary.AppendUvarint(b, uint64(len(ss)))
	for _, s := range ss {
		b = appendSpan(b, s)
	}
	return b
}

// errNoState is the error of bytes that are no state of this version.
var errNoState = errors.New("no state of this version")

// decodeState returns the state in b, behind which there may be more.
func decodeState(b []byte) (st state, err error) {
	le := binary.LittleEndian
	if len(b) < stateHeader || string(b[:8]) != stateMagic || le.Uint32(b[8:]) != records.Version ||
		le.Uint32(b[32:]) != crc32.Checksum(b[:32], castagnoli) {
		return st, errNoState
	}
	size := le.Uint32(b[12:])
	if size < stateHeader || int64(size) > int64(len(b)) || le.Uint32(b[36:]) != crc32.Checksum(b[stateHeader:size], castagnoli) {
		return st, errNoState
	}
	st.generation, st.id = le.Uint64(b[16:]), le.Uint64(b[24:])
	d := decoder{b: b[stateHeader:size]}
	st.tails[0], st.tails[1] = d.place(), d.place()
	st.held = d.spans()
	for n := d.number(); n > 0 && !d.bad; n-- {
		p := placeOf{name: string(d.bytes(d.number()))}
		p.todo = d.spans()
		for n := d.number(); n > 0 && !d.bad; n-- {
			sp := d.span()
			again := part{Span: sp, size: int(sp.Bytes()), sends: 1, delivered: true}
			if idle := d.bytes(1); len(idle) == 1 {
				again.idle = idle[0]
			}
			p.again = append(p.again, again)
		}
		st.places = append(st.places, p)
	}
	if d.bad {
		return state{}, errNoState
	}
	return st, nil
}

// A decoder takes a state apart.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) number() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || v > records.MaxPlace {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) bytes(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.bad, d.b = true, nil
		return nil
	}
	b := d.b[:n]
	d.b = d.b[n:]
	return b
}

func (d *decoder) place() records.Place {
	p := records.Place{At: d.number(), Line: d.number()}
	d.bad = d.bad || p.Line > p.At
	return p
}

func (d *decoder) span() records.Span {
	from, size := d.place(), d.place()
	s := records.Between(from, records.Place{At: from.At + size.At, Line: from.Line + size.Line})
	d.bad = d.bad || s.IsEmpty()
	return s
}

func (d *decoder) spans() (ss records.Spans) {
	for n := d.number(); n > 0 && !d.bad; n-- {
		s := d.span()
		if last := len(ss) - 1; last >= 0 && s.From.At < ss[last].To.At {
			d.bad = true
		}
		ss.Add(s)
	}
	return ss
}

// A stateFile is two files that are overwritten in turns: a process that is killed
// while it writes one leaves the other.
type stateFile struct {
	dir   *statedir.Dir // nil: none
	files [2]*os.File
	turn  int
}

const maxStateSize = 64 << 20

// load returns the newest sound state; false: there is none.
func (f *stateFile) load() (newest state, ok bool, err error) {
	for i := range f.files {
		b, err := f.dir.ReadFile(stateName(i), maxStateSize)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return state{}, false, fmt.Errorf("read the store's state: %w", err)
		}
		if st, err := decodeState(b); err == nil && (!ok || st.generation > newest.generation) {
			newest, ok, f.turn = st, true, 1-i
		}
	}
	return newest, ok, nil
}

func stateName(i int) string { return fmt.Sprintf("state-%d", i) }

// write writes a state, and returns the file; the one before stays.
func (f *stateFile) write(o *files, b []byte) (file *os.File, err error) {
	i := f.turn
	if f.files[i] == nil {
		if f.files[i], err = f.dir.OpenFile(stateName(i), os.O_RDWR, 0); errors.Is(err, fs.ErrNotExist) {
			f.files[i], err = o.create(f.dir, stateName(i))
		}
		if err != nil {
			return nil, err
		}
	}
	if err := o.write(f.files[i], b, nil, 0); err != nil {
		return nil, err
	}
	f.turn = 1 - i
	return f.files[i], nil
}

func (f *stateFile) close() {
	for _, file := range f.files {
		if file != nil {
			file.Close()
		}
	}
}

// save makes the state outlive the process. s.mu is held.
func (s *Store) save() {
	s.generation++
	var err error
	if s.memory != nil {
		if _, err = s.memoryState.write(&s.files, s.encodeState()); err != nil {
			s.unkept(err)
		}
	}
	if err != nil || s.diskUsed > 0 || s.wasUsed {
		s.dirty = true
		notify(s.work)
	}
}
