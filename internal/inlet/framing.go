package inlet

import (
	"bytes"
	"encoding/binary"
	"regexp"
	"slices"
)

const (
	headLen  = 4       // bytes of a stream that show how it is framed; of a packet's head
	maxFrame = 1 << 20 // bytes of a packet; text never begins like its length: it would need a NUL
)

// A framing cuts a stream into packets. The first four bytes show how:
//
//	host          lines, one after the other
//	┌─────────┬────────────┬─────────┬─
//	│ n (LE)  │ n bytes    │ n (LE)  │     DogStatsD's, as datadog-go writes it
//	└─────────┴────────────┴─────────┴─
//	anything else with bytes that no line has, and what begins like another
//	protocol: refused as a whole
type framing struct {
	understands bool // framed streams; else they are refused, too
	kind        framingKind
	left        int  // of a framed stream: bytes of the packet that are not handed over yet; 0: a head is next
	fresh       bool // none of them is handed over or looked at yet
}

type framingKind uint8

const (
	unknown framingKind = iota
	lines
	framed
	refused
)

// take hands data over to h, and returns the end that it needs to see again.
func (f *framing) take(h Handler, data []byte) (rest []byte) {
	if f.kind == unknown {
		f.kind = f.kindOf(data)
	}
	switch f.kind {
	case unknown:
		return data
	case lines:
		return h.Stream(data)
	case framed:
		return f.takePackets(h, data)
	}
	h.Drop(Misframed, data)
	return nil
}

// How streams of other protocols begin that contain line ends: all but HTTP's by accident. No
// web page may write lines.
var (
	proxyHead = []byte("\r\n\r\n\x00") // PROXY protocol, version 2
	foreign   = [][]byte{
		proxyHead,
		[]byte("\x16\x03\x01"), []byte("\x16\x03\x02"), []byte("\x16\x03\x03"), // TLS; with a 0, it is a packet of 790 bytes
		[]byte("\x1f\x8b\x08"), []byte("\x28\xb5\x2f\xfd"), // gzip, zstd
		[]byte("\xff\xff\xff\xff"), // a length of -1
	}
	method  = regexp.MustCompile(`^[A-Z]{3,}( |$)`)
	version = regexp.MustCompile(` HTTP/[0-9.]+\r?$`)
)

// kindOf recognizes a stream's framing by how it begins; unknown where more is to be seen.
func (f *framing) kindOf(data []byte) framingKind {
	if len(data) < headLen || bytes.HasPrefix(proxyHead, data) && len(data) < len(proxyHead) {
		return unknown
	}
	head := data[:headLen]
	request, _, isWhole := bytes.Cut(data, []byte("\n"))
	switch {
	case slices.ContainsFunc(foreign, func(f []byte) bool { return bytes.HasPrefix(data, f) }):
		return refused
	case f.understands && isLength(head):
		return framed
	case bytes.IndexByte(head, 0) >= 0, f.understands && bytes.ContainsFunc(head, isForeign):
		return refused
	case !method.Match(request), isWhole && !version.Match(request):
		return lines
	case !isWhole && len(data) < MaxRest:
		return unknown
	}
	return refused
}

// isLength says whether head is a packet's length, which may be 0.
func isLength(head []byte) bool { return binary.LittleEndian.Uint32(head) <= maxFrame }

// isForeign says whether r never occurs in a line.
func isForeign(r rune) bool { return r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0x7f }

// takePackets is take of a framed stream.
func (f *framing) takePackets(h Handler, data []byte) (rest []byte) {
	for len(data) > 0 {
		if f.left == 0 {
			if len(data) < headLen {
				return data
			}
			if isLength(data) {
				f.left, f.fresh, data = int(binary.LittleEndian.Uint32(data)), true, data[headLen:]
				continue
			}
		}
		if f.left == 0 || f.fresh && isForeign(rune(data[0])) { // a longer head than ours
			f.kind = refused
			return f.take(h, data)
		}
		f.fresh = false
		if len(data) < f.left {
			rest = h.Stream(data)
			f.left -= len(data) - len(rest)
			return rest
		}
		h.Datagram(data[:f.left], 0)
		f.left, data = 0, data[f.left:]
	}
	return nil
}

// end is take when the stream has ended.
func (f *framing) end(h Handler, data []byte) (rest []byte) {
	if f.kind == unknown { // too short to tell
		data = h.Stream(data)
	}
	if isHead := f.kind == framed && f.left == 0; len(data) > 0 && !isHead {
		h.Drop(Unterminated, data)
	}
	return nil
}
