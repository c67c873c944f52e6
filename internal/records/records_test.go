package records

import (
	"bytes"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// file is a segment with records of these ages and lines, and where each begins.
func file(h *Header, ages []time.Duration, lines ...string) (image []byte, places []Place) {
	image = h.Append(nil)
	p := h.Base
	for i, text := range lines {
		var head [RecordHeader]byte
		n := bytes.Count([]byte(text), []byte("\n"))
		h.PutRecord(head[:], p, []byte(text), n, h.Born.Add(ages[i]))
		image = append(append(image, head[:]...), text...)
		places = append(places, p)
		p = Place{p.At + RecordHeader + uint64(len(text)), p.Line + uint64(n)}
	}
	return image, append(places, p)
}

func header(kind Kind) *Header {
	return &Header{ID: 7, Kind: kind, Base: Place{100, 10}, Born: time.UnixMilli(1_700_000_000_000)}
}

// What was written is read again; held lines that came later, on their own.
func TestRead(t *testing.T) {
	for kind, want := range map[Kind]string{Named: "a 1 1\nb 2 2\nc 3 3\nd 4 4\n", Held: "a 1 1\nb 2 2\nc 3 3\n"} {
		image, places := file(header(kind), []time.Duration{time.Second, time.Second, time.Second + apart, time.Minute}, "a 1 1\n", "b 2 2\n", "c 3 3\n", "d 4 4\n")
		f := bytes.NewReader(image)
		h, err := ReadHeader(f)
		if err != nil || h.ID != 7 || h.Kind != kind || h.Base != (Place{100, 10}) {
			t.Fatalf("%+v, %v", h, err)
		}
		end, err := h.Scan(f)
		if end != places[4] || err != nil {
			t.Errorf("ends at %v, %v; want %v", end, err, places[4])
		}
		c := Chunk{Span: Between(h.Base, end)}
		if err := h.Read(f, &c); err != nil || string(c.Data) != want || c.Lines() != len(want)/6 || !c.Born.Equal(h.Born.Add(time.Second)) {
			t.Errorf("%v: got %q, %d lines, %v; want %q", kind, c.Data, c.Lines(), err, want)
		}
		c.Free()
	}
}

// A record is sound at its place, in its store, and nowhere else.
func TestSoundAtItsPlace(t *testing.T) {
	image, places := file(header(Named), make([]time.Duration, 2), "a 1 1\n", "b 1 1\n")
	swap := slices.Clone(image)
	copy(swap[HeaderSize:], image[HeaderSize+22:])
	copy(swap[HeaderSize+22:], image[HeaderSize:HeaderSize+22])
	another, _ := file(&Header{ID: 8, Kind: Named, Base: Place{100, 10}, Born: header(Named).Born}, nil)
	held, _ := file(header(Held), nil)
	elsewhere, _ := file(&Header{ID: 7, Kind: Named, Base: Place{101, 10}, Born: header(Named).Born}, nil)
	for name, image := range map[string][]byte{
		"in another order": swap, "in another store": append(another, image[HeaderSize:]...), "of another kind": append(held, image[HeaderSize:]...),
		"at another place": append(elsewhere, image[HeaderSize:]...), "cut": image[:HeaderSize+21], "nothing": image[:HeaderSize],
	} {
		f := bytes.NewReader(image)
		h, err := ReadHeader(f)
		if err != nil {
			t.Fatal(err)
		}
		if end, err := h.Scan(f); end != h.Base || err != nil {
			t.Errorf("%s: ends at %v, %v", name, end, err)
		}
		c := Chunk{Span: Between(h.Base, places[2])}
		if err := h.Read(f, &c); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: read %q, %v", name, c.Data, err)
		}
	}
	for at := range HeaderSize - 4 { // the last four are not in use
		b := slices.Clone(image)
		b[at]++
		if _, err := ReadHeader(bytes.NewReader(b)); err == nil {
			t.Errorf("a header whose byte %d is wrong was taken", at)
		}
	}
}

// What an earlier version wrote is read.
func TestReadHeaderOfVersion1(t *testing.T) {
	b := header(Held).Append(nil)
	b[8] = 1
	le.PutUint32(b[48:], crc32.Checksum(b[:48], castagnoli))
	if h, err := ReadHeader(bytes.NewReader(b)); err != nil || h.Kind != Held || h.Base != (Place{100, 10}) {
		t.Errorf("got %+v, %v", h, err)
	}
}

// Spans are what a list of all places would be.
func TestSpans(t *testing.T) {
	const size = 40
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var ss Spans
		var twin [size]bool
		for range 20 {
			a := random.IntN(size - 1)
			b := a + 1 + random.IntN(size-1-a)
			s := Between(Place{uint64(a), uint64(a)}, Place{uint64(b), uint64(b)})
			in := 0
			for i := a; i < b; i++ {
				if twin[i] {
					in++
				}
			}
			if lines, size := ss.Count(s); lines != in || size != int64(in) || ss.Touches(s) != (in > 0) || ss.Touches(Between(s.From, s.From)) || ss.Holds(s) != (in == b-a) {
				t.Fatalf("%v in %v: %d lines, touches %v, holds %v", s, ss, lines, ss.Touches(s), ss.Holds(s))
			}
			add := random.IntN(2) == 0
			if add && in == 0 {
				ss.Add(s)
			} else {
				var to Spans
				ss.Remove(Span{s.To, s.From}) // nothing
				if lines := ss.Move(s, &to); lines != in || to.Lines() != in || to.Bytes() != int64(in) {
					t.Fatalf("%d lines moved, of %d bytes, want %d: %v", lines, size, in, to)
				}
			}
			for i := a; i < b; i++ {
				twin[i] = add && in == 0
			}
			for i, s := range ss {
				if s.IsEmpty() || i > 0 && ss[i-1].To.At >= s.From.At {
					t.Fatalf("not in order, or not apart: %v", ss)
				}
			}
		}
	}
}
