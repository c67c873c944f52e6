package testbed

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/bits"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Names of a numbered line's first node. A daemon has a pool of its own, but one
// that is killed as soon as it has claimed a name cannot prove it to be its own,
// and takes the next.
const (
	nameSent    = "host"
	nameArrived = "Denali"
	nameNext    = "MtLogan"
)

// A numbered line says which stream it is of, which of its lines it is, and
// when it was sent:
//
//	carbon  host.f.<stream>.<check> <seq> <seconds>.<milliseconds>
//	statsd  host.f.<stream>.<check>.<seq>:1|c
//
// The check is a CRC of the numbers: a line that was put together from halves
// of two does not pass for a third.
type numbered struct {
	carbon      bool // or statsd
	stream, seq uint32
	sent        int64 // ms of Unix time; 0 for statsd, which has no place for it
}

func (n numbered) check() uint32 {
	var b [16]byte
	binary.LittleEndian.PutUint32(b[0:], n.stream)
	binary.LittleEndian.PutUint32(b[4:], n.seq)
	binary.LittleEndian.PutUint64(b[8:], uint64(n.sent))
	return crc32.ChecksumIEEE(b[:])
}

// append appends the line under a name, with its end.
func (n numbered) append(dst []byte, name string) []byte {
	dst = append(append(dst, name...), ".f."...)
	dst = strconv.AppendUint(dst, uint64(n.stream), 10)
	dst = strconv.AppendUint(append(dst, '.'), uint64(n.check()), 10)
	if !n.carbon {
		dst = strconv.AppendUint(append(dst, '.'), uint64(n.seq), 10)
		return append(dst, ":1|c\n"...)
	}
	dst = strconv.AppendUint(append(dst, ' '), uint64(n.seq), 10)
	dst = strconv.AppendInt(append(dst, ' '), n.sent/1000, 10)
	ms := n.sent % 1000
	return append(dst, '.', byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10), '\n')
}

// parseNumbered reads a line, without its end, as it arrives.
func parseNumbered(ln []byte) (n numbered, ok bool) {
	name, rest, _ := bytes.Cut(ln, []byte(".f."))
	if string(name) != nameArrived && string(name) != nameNext {
		return n, false
	}
	stream, rest, ok := cutNumber(rest, '.')
	if !ok {
		return n, false
	}
	n.stream = uint32(stream)
	end := bytes.IndexAny(rest, " .")
	if end < 0 {
		return n, false
	}
	n.carbon = rest[end] == ' '
	check, rest, ok := cutNumber(rest, rest[end])
	if !ok {
		return n, false
	}
	return n, n.parseRest(rest) && uint64(n.check()) == check
}

// parseRest reads what follows the check.
func (n *numbered) parseRest(rest []byte) bool {
	if !n.carbon {
		seq, rest, ok := cutNumber(rest, ':')
		n.seq = uint32(seq)
		return ok && string(rest) == "1|c"
	}
	seq, rest, ok := cutNumber(rest, ' ')
	if !ok {
		return false
	}
	seconds, rest, ok := cutNumber(rest, '.')
	if !ok || len(rest) != 3 {
		return false
	}
	ms, ok := number(rest)
	n.seq, n.sent = uint32(seq), int64(seconds*1000+ms)
	return ok
}

// cutNumber reads decimal digits up to a byte.
func cutNumber(b []byte, until byte) (n uint64, rest []byte, ok bool) {
	end := bytes.IndexByte(b, until)
	if end < 0 {
		return 0, nil, false
	}
	n, ok = number(b[:end])
	return n, b[end+1:], ok
}

func number(digits []byte) (n uint64, ok bool) {
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return n, len(digits) > 0
}

// A stream is what one connection of a sender, or one UDP socket, has written,
// and what of it has arrived. The tallier's mutex guards it.
type stream struct {
	id      uint32
	carbon  bool
	udp     bool
	written int  // lines that write() took whole
	bytes   int  // bytes that write() took
	fate    fate // of the connection
	bound   int  // bytes that the two socket buffers may have held; 0 until the connection broke
	kill    int  // of the relay that broke it, counted from 1; 0: none
	read    int  // bytes that the relay had read then, at least
	got     []uint64
	arrived int // different lines
	doubled int // lines that arrived again
}

// A fate is how a connection ended.
type fate int

const (
	unended fate = iota
	whole        // the relay has read all of it: it closed after we did
	broken       // what the two socket buffers held is lost, and no more
)

// A tallier knows what was sent, and takes what arrives. Any goroutine may use
// it.
type tallier struct {
	mu      sync.Mutex
	streams []*stream
	arrived int      // lines, doubled ones as well
	garbled int      // that nobody sent
	samples []string // of these
	drain   *drain   // the outage that is being made up for; nil: none
}

// open begins a stream.
func (l *tallier) open(carbon, udp bool) *stream {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &stream{id: uint32(len(l.streams)), carbon: carbon, udp: udp}
	l.streams = append(l.streams, s)
	return s
}

// wrote books what a write took.
func (l *tallier) wrote(s *stream, lines, bytes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.written += lines
	s.bytes += bytes
}

// end books how a stream's connection ended.
func (l *tallier) end(s *stream, f fate, bound int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.fate, s.bound = f, bound
}

// take implements lineTaker: whole lines have arrived just now.
func (l *tallier) take(_ int, lines []byte) {
	now := time.Now().UnixMilli()
	l.mu.Lock()
	defer l.mu.Unlock()
	for ln := range bytes.Lines(lines) {
		l.line(bytes.TrimSuffix(ln, []byte("\n")), now)
	}
}

func (l *tallier) line(ln []byte, now int64) {
	l.arrived++
	n, ok := parseNumbered(ln)
	if !ok || int(n.stream) >= len(l.streams) || l.streams[n.stream].carbon != n.carbon {
		l.garbled++
		if len(l.samples) < 5 {
			l.samples = append(l.samples, string(ln))
		}
		return
	}
	if first := l.streams[n.stream].mark(n.seq); first && n.carbon && l.drain != nil {
		l.drain.take(n.sent, now)
	}
}

// mark says whether a line arrives for the first time.
func (s *stream) mark(seq uint32) bool {
	for int(seq/64) >= len(s.got) {
		s.got = append(s.got, 0)
	}
	word, bit := &s.got[seq/64], uint64(1)<<(seq%64)
	if *word&bit != 0 {
		s.doubled++
		return false
	}
	*word |= bit
	s.arrived++
	return true
}

// first returns how many lines arrived from the first on, without a gap.
func (s *stream) first() int {
	for i, word := range s.got {
		if n := bits.TrailingZeros64(^word); n < 64 {
			return 64*i + n
		}
	}
	return 64 * len(s.got)
}

// lost returns how many lines never arrived.
func (s *stream) lost() int { return max(0, s.written-s.arrived) }

// problem says what is wrong with what arrived; "" where all is well. Of a
// connection that broke, the last lines may be missing: a suffix, no longer
// than what two socket buffers hold.
func (s *stream) problem() string {
	var what string
	switch missing := s.lost(); {
	case s.arrived > s.written:
		what = fmt.Sprintf("%d lines arrived that were not written", s.arrived-s.written)
	case !s.carbon && s.doubled > 0:
		what = fmt.Sprintf("%d lines arrived again", s.doubled)
	case !s.carbon, missing == 0:
		return ""
	case s.fate != broken:
		what = fmt.Sprintf("%d lines are lost, the first is %d", missing, s.first())
	case s.first() < s.arrived:
		what = fmt.Sprintf("a gap at line %d: %d lines are lost, and later ones arrived", s.first(), missing)
	case missing*(s.bytes/s.written) > s.bound:
		what = fmt.Sprintf("the last %d lines are lost, more than two socket buffers hold (%d bytes)", missing, s.bound)
	default:
		return ""
	}
	return fmt.Sprintf("%s: %s, of %d written", s, what, s.written)
}

func (s *stream) String() string {
	return fmt.Sprintf("stream %d (%s by %s)", s.id, pick(s.carbon, "carbon", "statsd"), pick(s.udp, "udp", "tcp"))
}

func pick[T any](first bool, a, b T) T {
	if first {
		return a
	}
	return b
}

// noteRead books what the relay had read of a stream when it was killed.
func (l *tallier) noteRead(s *stream, kill, bytes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.kill, s.read = kill, bytes
}

// wasKilled says whether the relay was killed while a stream was open.
func (l *tallier) wasKilled(s *stream) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return s.kill > 0
}

// bytesOf returns how many bytes of a stream write() took.
func (l *tallier) bytesOf(s *stream) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return s.bytes
}

// killsWithLoss returns how many kills of the relay lost lines that it had
// read. A few may: whoever is killed right after a read has had no time to keep
// what it read.
func (l *tallier) killsWithLoss() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	kills := map[int]bool{}
	for _, s := range l.streams {
		if s.kill > 0 && s.fate == broken && s.first() < s.read*s.written/max(s.bytes, 1) {
			kills[s.kill] = true
		}
	}
	return len(kills)
}

// A toll is what became of the lines of some streams.
type toll struct{ written, lost, doubled int }

// toll adds up the streams of Carbon by TCP.
func (l *tallier) toll() (t toll) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.streams {
		if !s.carbon || s.udp {
			continue
		}
		t.written += s.written
		t.lost += s.lost()
		t.doubled += s.doubled
	}
	return t
}

// problems says what is wrong with what has arrived. Of Carbon by UDP, kernel
// drops may be missing.
func (l *tallier) problems(udpDrops int) (out []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.garbled > 0 {
		out = append(out, fmt.Sprintf("%d lines arrived that nobody sent, like %q", l.garbled, l.samples))
	}
	lostByUDP := 0
	for _, s := range l.streams {
		if s.carbon && s.udp {
			lostByUDP += s.lost()
		} else if p := s.problem(); p != "" {
			out = append(out, p)
		}
	}
	if lostByUDP > udpDrops {
		out = append(out, fmt.Sprintf("%d lines by udp are lost, the kernel dropped %d", lostByUDP, udpDrops))
	}
	return out
}

// count returns how many lines have arrived, and how many Carbon lines have
// not yet that a relay must deliver.
func (l *tallier) count() (arrived, missing int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.streams {
		if s.carbon {
			missing += s.lost()
		}
	}
	return l.arrived, missing
}

// A drain is how a relay makes up for an outage: the lines that were sent
// before its end, which is when the first line arrives, are the backlog, those
// sent later are live.
type drain struct {
	end     int64   // of the outage, in ms of Unix time; 0: not yet
	backlog int     // lines
	last    int64   // when the last of them arrived
	by      []int   // lines of the backlog that had arrived, by ms since the end
	waited  []int   // lines of the backlog that arrived while a live line was under way, by live line
	ages    []int64 // ms that live lines were under way
}

func (d *drain) take(sent, now int64) {
	d.end = cmp.Or(d.end, now)
	if sent < d.end {
		d.backlog++
		d.last = now
	}
	for int64(len(d.by)) <= now-d.end {
		d.by = append(d.by, d.backlog)
	}
	if sent < d.end {
		d.by[len(d.by)-1] = d.backlog
		return
	}
	d.waited = append(d.waited, d.backlog-d.by[sent-d.end])
	d.ages = append(d.ages, now-sent)
}

// median returns what half of some numbers are at most.
func median[T cmp.Ordered](numbers []T) (most T) {
	if len(numbers) == 0 {
		return most
	}
	slices.Sort(numbers)
	return numbers[(len(numbers)-1)/2]
}

// rate returns the lines of the backlog that arrived in a second.
func (d *drain) rate() int {
	return int(float64(d.backlog) / (float64(max(d.last-d.end, 1)) / 1000))
}

// beginDrain says that an outage ends now.
func (l *tallier) beginDrain() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drain = &drain{}
}

// hasLive says whether lines have arrived that were sent after the outage.
func (l *tallier) hasLive() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.drain.ages) > 0
}

// endDrain returns how the outage was made up for.
func (l *tallier) endDrain() drain {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := *l.drain
	l.drain = nil
	return d
}
