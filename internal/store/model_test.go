package store

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/outlet"
)

var (
	schedules = flag.Int("store.schedules", 6, "how many schedules TestModel runs")
	traceSize = flag.Int("store.trace", 4000, "how many bytes of its trace a failing schedule prints")
	firstSeed = flag.Uint64("store.seed", 0, "the seed of the first")
)

// Whatever happens in whatever order, the books of every destination balance in every
// process, what one leaves the next adopts, and each destination has every line that
// its books don't name as dropped.
func TestModel(t *testing.T) {
	for i := range *schedules {
		seed := *firstSeed + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			m := newModel(t, seed)
			for range 400 {
				m.step()
				m.check()
			}
			m.finish()
		})
	}
}

// A model runs a store by hand. Beside it stands the slow and obvious: the lines that
// were put, and those that each peer has read.
type model struct {
	*testing.T
	rand   *rand.Rand
	places Places
	now    time.Time
	store  *Store
	to     []Destination
	peers  map[string]*peer
	trace  bytes.Buffer

	lines    int          // that were put, over all processes
	maybe    map[int]bool // put while the process was killed: nobody was told that they are kept
	put      int          // by this process
	tight    bool
	first    int             // line that this process was put
	full     map[string]bool // directories without room
	killAt   int             // at which write the process is killed; 0: not
	writes   int
	wasFull  bool    // a directory of this process
	everFull bool    // a directory of any
	torn     bool    // it was killed in a write: what the disk knows may be older by one step
	former   []Books // of the last process, when it ended
}

// A peer is a server of one destination, behind its kernel.
type peer struct {
	*Cursor
	name    string
	since   int          // the number of the first line that it is to get
	got     map[int]bool // lines that it has read
	risk    map[int]bool // lines that it had acknowledged and not read, at an end and at a bound
	dropped int          // over all processes
	removed int          // lines that were dropped with a destination of that name, which its books go on from
	put     int          // by this process
	linked  bool
	fake    bool // a balancer without a backend
	began   time.Time
	ackedAt time.Time
	sent    []byte
	acked   int
	read    int
}

var errKilled = errors.New("killed")

const modelReplay = 8 << 10

// tempDir returns a directory where a sync costs nothing, if there is one.
func tempDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "store-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func newModel(t *testing.T, seed uint64) *model {
	m := &model{T: t, rand: rand.New(rand.NewPCG(seed, 0)), now: time.Now(), peers: map[string]*peer{}, maybe: map[int]bool{}, full: map[string]bool{}}
	root := tempDir(t)
	m.places = Places{State: filepath.Join(root, "st[a]te"), Memory: []string{filepath.Join(root, "memory")}, files: &faulty{fault: m.fault}}
	for _, dir := range []string{m.places.State, m.places.Memory[0]} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	m.tight = seed%3 == 1
	m.to = []Destination{m.destination("a"), m.destination("b")}
	m.start()
	return m
}

func (m *model) destination(name string) Destination {
	d := Destination{Name: name, Queue: 1 << 20, Spool: 1 << 30, Replay: modelReplay}
	if m.tight {
		d.Spool = []int64{0, 1 << 20, 2 << 20}[m.rand.IntN(3)]
	}
	return d
}

func (m *model) logf(format string, args ...any) { fmt.Fprintf(&m.trace, format+"\n", args...) }

func (m *model) Fatalf(format string, args ...any) {
	m.Helper()
	tail := m.trace.String()
	if len(tail) > *traceSize {
		tail = tail[len(tail)-*traceSize:]
	}
	m.T.Fatalf(format+"\n%s", append(args, tail)...)
}

// fault stands before every change of a file.
func (m *model) fault(op, path string, size int) (int, error) {
	if op == "written" {
		if m.killAt < 0 {
			panic(errKilled)
		}
		return 0, nil
	}
	m.writes++
	if m.killAt > 0 && m.writes >= m.killAt {
		m.killAt = -1
		m.logf("killed in %s of %s", op, path)
		if op == "write" {
			return m.rand.IntN(size + 1), errKilled
		}
		panic(errKilled)
	}
	for dir := range m.full {
		if strings.HasPrefix(path, dir) && (op == "write" || op == "create" || op == "free") {
			return m.rand.IntN(size + 1), syscall.ENOSPC
		}
	}
	return size, nil
}

// start is the start of a process.
func (m *model) start() {
	m.full, m.wasFull = map[string]bool{}, false
	s, err := Open(m.places, m.to, slog.New(slog.NewTextHandler(&m.trace, nil)))
	if err != nil {
		m.Fatalf("open: %v", err)
	}
	m.store, m.put, m.first = s, 0, m.lines
	m.join()
	for _, b := range s.Books() {
		m.logf("start: %+v", b)
	}
	m.carriedOver()
}

// join gives each destination its peer.
func (m *model) join() {
	for _, d := range m.to {
		c := m.store.Cursor(d.Name)
		p := m.peers[d.Name]
		if p == nil {
			p = &peer{name: d.Name, since: m.lines, got: map[int]bool{}, risk: map[int]bool{}}
			m.peers[d.Name] = p
		}
		if p.Cursor != c {
			p.Cursor, p.put, p.removed = c, 0, int(c.books.Dropped[Shutdown])
		}
	}
}

// carriedOver checks that a process adopts what the last one showed as waiting.
func (m *model) carriedOver() {
	for _, former := range m.former {
		left := former.Queued + former.Spooled
		for _, b := range m.store.Books() {
			if b.Destination != former.Destination || former.Removed {
				continue
			}
			if int(b.Adopted) != left && !m.torn {
				m.Fatalf("%s: %d lines adopted, %d were left: %+v, then %+v", b.Destination, b.Adopted, left, former, b)
			}
		}
	}
	m.former = nil
}

// step does something.
func (m *model) step() {
	defer func() {
		if err := recover(); err == errKilled {
			m.restart(true)
		} else if err != nil {
			panic(fmt.Sprint(err, "\n", m.trace.String()))
		}
	}()
	m.pass(time.Duration(m.rand.IntN(200)) * time.Millisecond)
	p := m.peers[m.to[m.rand.IntN(len(m.to))].Name]
	switch n := m.rand.IntN(40); n {
	case 0, 1, 2, 3, 4, 5:
		m.append(m.rand.IntN(300), false)
	case 6, 7:
		m.append(m.rand.IntN(300), true)
	case 8:
		m.append(m.rand.IntN(20_000), m.rand.IntN(3) == 0)
	case 9, 10, 11, 12, 13, 14:
		m.send(p, 1+m.rand.IntN(20))
	case 15, 16, 17:
		m.ack(p, m.rand.IntN(len(p.sent)-p.acked+1))
	case 18:
		m.ack(p, len(p.sent)-p.acked)
	case 19, 20:
		p.read += m.rand.IntN(p.acked - p.read + 1)
	case 21, 22, 23:
		m.logf("run")
		m.store.step(m.now)
	case 24, 25, 26:
		m.name()
	case 27:
		m.end(p, outlet.Broken)
	case 28:
		m.end(p, outlet.Closed)
	case 29:
		m.end(p, outlet.Finished)
	case 30:
		m.pass(time.Duration(m.rand.IntN(3000)) * time.Millisecond)
	case 31:
		m.pass(time.Duration(m.rand.IntN(30_000)) * time.Millisecond)
		if m.rand.IntN(3) == 0 {
			m.steady(p)
		}
	case 32, 33:
		switch m.rand.IntN(4) {
		case 0:
			m.kill()
		case 1:
			m.stop()
		case 2:
			m.killAt, m.writes = 1+m.rand.IntN(20), 0
			m.logf("to be killed at write %d", m.killAt)
		}
	case 34:
		if m.rand.IntN(6) == 0 {
			m.reload()
		}
	case 35:
		dir := []string{m.places.State, m.places.Memory[0]}[m.rand.IntN(2)]
		if m.full[dir] {
			delete(m.full, dir)
		} else if m.rand.IntN(3) == 0 {
			m.full[dir] = true
			m.wasFull, m.everFull = true, true
		}
		m.logf("full: %v", m.full)
	case 36:
		if m.tight {
			m.logf("expire")
			m.store.Held.Expire(m.now.Add(-10 * time.Second))
		}
	default:
		m.send(p, 3)
		m.ack(p, len(p.sent)-p.acked)
	}
}

// pass lets time pass. A balancer without a backend ends its sessions in time.
func (m *model) pass(d time.Duration) {
	then := m.now.Add(d)
	for _, p := range m.peers {
		if p.linked && p.fake && then.Sub(p.began) >= young {
			m.now = p.began.Add(young - 1)
			m.end(p, outlet.Broken)
		}
	}
	m.now = then
}

// append puts lines.
func (m *model) append(n int, isHeld bool) {
	if n == 0 {
		return
	}
	m.logf("put %d from %d on, held: %v", n, m.lines, isHeld)
	var b []byte
	for i := range n {
		b = fmt.Appendf(b, "line.%d 1 1\n", m.lines+i)
	}
	m.lines += n
	m.put += n
	for _, d := range m.to {
		m.peers[d.Name].put += n
	}
	defer func() {
		if m.killAt < 0 {
			for i := range n {
				m.maybe[m.lines-1-i] = true
			}
		}
	}()
	m.store.Put(b, n, m.now, isHeld)
	for !m.tight && len(m.full) == 0 && m.store.isPressed() {
		m.pass(m.store.step(m.now)) // before the next ones can overrun the memory
	}
}

// name is what who names does.
func (m *model) name() {
	for range 1 + m.rand.IntN(4) {
		h, ok := m.store.Held.Take()
		m.logf("take held: %v, %d lines", ok, h.Lines())
		if !ok {
			return
		}
		if n := bytes.Count(h.Data, []byte{'\n'}); n != h.Lines() {
			m.Fatalf("%d held lines, said to be %d", n, h.Lines())
		}
		named := bytes.Clone(h.Data)
		m.store.Held.Finish(func(put func([]byte, int, time.Time)) { put(named, h.Lines(), h.Born) })
	}
}

// send is what an outlet does.
func (m *model) send(p *peer, times int) {
	if !p.linked {
		*p = peer{Cursor: p.Cursor, name: p.name, since: p.since, got: p.got, risk: p.risk, dropped: p.dropped, removed: p.removed, put: p.put,
			linked: true, began: m.now, fake: m.rand.IntN(4) == 0}
		m.logf("%s: begin, fake: %v", p.name, p.fake)
		p.Begin(m.now, outlet.Session{Upstream: "upstream"})
	}
	for range times {
		lines, wait, err := p.Next(m.now)
		if err != nil {
			m.Fatalf("%s: next: %v", p.name, err)
		}
		if len(lines) == 0 {
			m.logf("%s: nothing to send, wait %v", p.name, wait)
			return
		}
		n := len(lines)
		if m.rand.IntN(4) == 0 {
			n = m.rand.IntN(n + 1)
		}
		m.logf("%s: wrote %d of %d: %.20q", p.name, n, len(lines), lines)
		p.sent = append(p.sent, lines[:n]...)
		p.Wrote(m.now, n)
	}
}

// steady lets a session grow old that does well.
func (m *model) steady(p *peer) {
	for range 22 {
		m.append(1+m.rand.IntN(100), false)
		m.send(p, 5)
		m.ack(p, len(p.sent)-p.acked)
		if !p.fake {
			p.read = p.acked
		}
		m.pass(time.Second)
	}
}

// ack is what a peer's kernel does: it takes n more bytes, as far as it has room.
func (m *model) ack(p *peer, n int) {
	if !p.linked {
		return
	}
	if !p.fake {
		n = min(n, p.read+modelReplay-p.acked)
	}
	if n > 0 {
		p.ackedAt = m.now
	}
	p.acked += max(0, n)
	m.logf("%s: acked %d", p.name, p.acked)
	p.Ack(m.now, outlet.Peer{Acked: uint64(p.acked)})
}

// end ends a session. What the peer has not read is lost, and so is a line of which
// it has read a part; but one that closes in order has read all that it had
// acknowledged. A balancer has read nothing, whoever ends a session, and is found out in time.
func (m *model) end(p *peer, how outlet.Ending) {
	if !p.linked {
		return
	}
	if p.fake && how == outlet.Closed {
		how = outlet.Broken
	} else if how == outlet.Finished && p.acked < len(p.sent) {
		how = outlet.Broken
	}
	m.logf("%s: end, %d of %d acked, how: %v", p.name, p.acked, len(p.sent), how)
	if how != outlet.Broken && !p.fake {
		p.read = p.acked
	}
	m.arrive(p)
	p.End(m.now, how)
	p.linked, p.sent, p.acked, p.read = false, nil, 0, 0
}

func (m *model) arrive(p *peer) {
	if !p.linked {
		return
	}
	whole := bytes.LastIndexByte(p.sent[:p.read], '\n') + 1
	if p.fake {
		whole = 0
	}
	for ln := range strings.Lines(string(p.sent[:whole])) {
		i, ok := number(ln)
		if !ok || i >= m.lines {
			m.Fatalf("%s: got %q", p.name, ln)
		}
		p.got[i] = true
	}
	// At a bound, what is kept for replay goes before what is not delivered.
	for ln := range strings.Lines(string(p.sent[whole:p.acked])) {
		if i, ok := number(ln); ok {
			p.risk[i] = true
		}
	}
}

// number returns which line ln is; false: it is none.
func number(ln string) (int, bool) {
	digits, isLine := strings.CutPrefix(ln, "line.")
	digits, isWhole := strings.CutSuffix(digits, " 1 1\n")
	i, err := strconv.Atoi(digits)
	return i, isLine && isWhole && err == nil && digits == strconv.Itoa(i)
}

// kill is kill -9.
func (m *model) kill() {
	m.logf("kill")
	m.remember()
	m.restart(false)
}

// remember takes note of the books at the end of a process.
func (m *model) remember() {
	m.former, m.torn = m.store.Books(), m.wasFull
	m.tally(m.former)
	m.loseNameless()
}

func (m *model) tally(all []Books) {
	for _, b := range all {
		for _, n := range b.Dropped {
			if p := m.peers[b.Destination]; p != nil {
				p.dropped += int(n)
			}
		}
	}
}

// restart starts the next process, after one that was killed, perhaps in the middle of
// a write.
func (m *model) restart(torn bool) {
	if torn {
		m.former, m.torn = nil, true
		for _, c := range m.store.removed {
			c.giveUp(false) // nobody will ask what its session had sent
		}
		for _, c := range slices.Concat(m.store.cursors, m.store.removed) {
			c.books.Destination = c.Name
			m.tally([]Books{c.books})
		}
		m.loseNameless()
	}
	m.killAt = 0
	for _, p := range m.peers {
		m.arrive(p)
		p.linked, p.sent, p.acked, p.read = false, nil, 0, 0
	}
	m.store.abandon()
	m.start()
}

// loseNameless takes note of the lines that were in no file that has a name: it was
// said that they end with the process.
func (m *model) loseNameless() {
	if m.wasFull { // and nor was the state
		for i := m.first; i < m.lines; i++ {
			m.maybe[i] = true
		}
	}
	for _, l := range []*log{&m.store.named, &m.store.held} {
		for _, g := range l.segments {
			if g.dir != nil || g.Base == g.end {
				continue
			}
			b := make([]byte, g.size())
			g.file.ReadAt(b, 0)
			for i := bytes.Index(b, []byte("line.")); i >= 0; i = bytes.Index(b, []byte("line.")) {
				var n int
				if b = b[i:]; bytes.Contains(b, []byte(" 1 1\n")) {
					fmt.Sscanf(string(b[:min(len(b), 20)]), "line.%d", &n)
					m.maybe[n] = true
				}
				b = b[1:]
			}
		}
	}
}

// stop is the end of a process that ends well.
func (m *model) stop() {
	m.logf("stop")
	for _, p := range m.peers {
		m.end(p, outlet.Broken)
	}
	m.store.CloseInput()
	if err := m.store.Close(); err != nil {
		m.logf("close: %v", err)
	}
	m.remember()
	m.killAt = 0
	m.start()
}

// reload changes the destinations.
func (m *model) reload() {
	names := map[string]bool{}
	var to []Destination
	for range 1 + m.rand.IntN(3) {
		name := string(rune('a' + m.rand.IntN(3)))
		if !names[name] {
			names[name] = true
			to = append(to, m.destination(name))
		}
	}
	m.logf("destinations: %v", to)
	before := m.store.Books()
	m.store.SetDestinations(to)
	m.to = to
	for name, p := range m.peers {
		if names[name] || p.Cursor == nil {
			continue
		}
		m.arrive(p)
		for _, b := range before {
			if b.Destination == name && !b.Removed {
				m.logf("%s is gone", name)
			}
		}
		delete(m.peers, name)
	}
	m.store.removed = nil
	m.join()
}

// check looks at the books.
func (m *model) check() {
	m.Helper()
	for _, b := range m.store.Books() {
		p := m.peers[b.Destination]
		if p == nil || b.Removed {
			continue
		}
		sum := b.Queued + b.Spooled
		for _, lines := range b.Forwarded {
			sum += int(lines)
		}
		dropped := 0
		for _, n := range b.Dropped {
			dropped += int(n)
		}
		if sum += dropped; p.put+int(b.Adopted) != sum {
			m.Fatalf("%s: the books do not balance: %d put, %+v", b.Destination, p.put, b)
		}
		if b.Queued < 0 || b.Spooled < 0 || b.QueueBytes < 0 || b.SpoolBytes < 0 {
			m.Fatalf("%s: less than nothing: %+v", b.Destination, b)
		}
		if dropped > p.removed && !m.tight && len(m.full) == 0 && p.dropped == 0 && !m.everFull {
			m.Fatalf("%s: lines dropped that had room: %+v", b.Destination, b)
		}
	}
	s := m.store
	memory, disk := int64(0), int64(0)
	for _, l := range []*log{&s.named, &s.held} {
		border := false
		for i, g := range l.segments {
			if g.tier == onDisk {
				disk += g.size()
				if border {
					m.Fatalf("a segment on disk behind one in memory")
				}
			} else {
				border = true
				memory += g.size()
			}
			if i > 0 && l.segments[i-1].end.At > g.Base.At {
				m.Fatalf("segments overlap")
			}
		}
	}
	if memory != s.used[inMemory] || disk != s.used[onDisk] || memory > max(s.limit[inMemory], s.most)+s.segmentSize {
		m.Fatalf("%d bytes in memory, counted %d, of %d; %d on disk, counted %d", memory, s.used[inMemory], s.limit[inMemory], disk, s.used[onDisk])
	}
}

// finish lets all arrive.
func (m *model) finish() {
	m.full = map[string]bool{}
	m.killAt = 0
	for _, p := range m.peers {
		m.end(p, outlet.Broken)
	}
	deliver := func() {
		m.pass(100 * time.Millisecond)
		m.store.step(m.now)
		m.name()
		for _, p := range m.peers {
			m.send(p, 20)
			p.fake = false
			for p.acked < len(p.sent) {
				p.read = p.acked
				m.ack(p, len(p.sent)-p.acked)
			}
			p.read = p.acked
			m.ack(p, 0)
		}
		m.check()
	}
	for i := 0; ; i++ {
		deliver()
		left := 0
		for _, b := range m.store.Books() {
			left += b.Queued + b.Spooled
		}
		if left == 0 {
			break
		}
		if i > 20_000 {
			m.Fatalf("it never ends: %+v", m.store.Books())
		}
	}
	m.tally(m.store.Books())
	for _, p := range m.peers {
		m.arrive(p)
		missing, which := 0, ""
		for i := p.since; i < m.lines; i++ {
			if !p.got[i] && !m.maybe[i] && !(p.risk[i] && (m.tight || m.everFull)) {
				missing++
				which = fmt.Sprint(which, " ", i)
			}
		}
		if missing > p.dropped {
			m.Fatalf("%s: %d of %d lines are missing, %d were dropped: %.100s", p.name, missing, m.lines-p.since, p.dropped, which)
		}
	}
	m.pass(young)
	for range 20 { // what has waited for that
		deliver()
	}
	for _, p := range m.peers {
		m.end(p, outlet.Finished)
	}
	if err := m.store.Close(); err != nil {
		m.Fatalf("close: %v", err)
	}
	m.former = nil
	if left, _ := filepath.Glob(filepath.Join(m.places.Memory[0], "*")); len(left) > 0 {
		m.Fatalf("left in memory: %v", left)
	}
}
