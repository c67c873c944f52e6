package proxy

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/conf"
	"github.com/prefixproxy/prefixproxy/internal/journal"
	"github.com/prefixproxy/prefixproxy/internal/line"
	"github.com/prefixproxy/prefixproxy/internal/outlet"
	"github.com/prefixproxy/prefixproxy/membership"
)

// keptConfig is testConfig for lines that are kept: in dir, with a small queue.
func keptConfig(t *testing.T, carbon Upstream) (Config, Options) {
	cfg := testConfig(Upstream{Network: "stdout"}, carbon)
	cfg.Forward.Carbon.Queue = 1 << 20
	dir := t.TempDir()
	return cfg, Options{Stdout: &syncBuffer{}, StateDir: dir, QueueDirs: []string{dir}}
}

// writeSpooling writes lines no faster than the disk takes what memory can't hold.
func writeSpooling(t *testing.T, p *running, conn io.Writer, format string, lines int) {
	t.Helper()
	const step = 10_000
	for i := 0; i < lines; i += step {
		write(t, conn, numbered(format, i, i+step))
		eventually(t, "the lines are there, and as many spooled as must be", func() bool {
			_, size := p.carbon.snapshot()
			return balance(t, p.Proxy)["carbon"].Received == uint64(i+step) && size <= 1<<19
		})
	}
}

// What a peer may not have read is sent again on the next connection, from a
// line's start, and counts as forwarded once.
func TestReplay(t *testing.T) {
	carbon := newSink(t, "tcp")
	cfg := testConfig(Upstream{Network: "stdout"}, carbon.address)
	cfg.Forward.Carbon.Replay = 10 << 10
	p := start(t, cfg, holding("Denali"))
	conn := p.dial(t, "carbon", 0)
	const lines, size = 2000, len("Denali.n0000 1 1700000000\n")
	write(t, conn, numbered("host.n%04d 1 1700000000", 0, lines))
	carbon.next(lines)
	eventually(t, "all is acknowledged", func() bool { return balance(t, p.Proxy)["carbon"].Forwarded == lines })
	carbon.close()
	eventually(t, "the upstream is seen to be down", func() bool { return !p.Status().Upstreams[1].Up })
	carbon.open()
	write(t, conn, "host.later 1 1700000000\n")
	var again []string
	for ln := carbon.next(1)[0]; ln != "Denali.later 1 1700000000"; ln = carbon.next(1)[0] {
		again = append(again, ln)
	}
	first := lines - len(again)
	for i, ln := range again {
		if want := fmt.Sprintf("Denali.n%04d 1 1700000000", first+i); ln != want {
			t.Fatalf("line %d: got %q, want %q", i, ln, want)
		}
	}
	if n := len(again) * size; n < 10<<10 || n > 10<<10+batchSize {
		t.Errorf("%d bytes came again, want some more than %d", n, 10<<10)
	}
	eventually(t, "all is acknowledged", func() bool { return balance(t, p.Proxy)["carbon"].Queued == 0 })
	if b := balance(t, p.Proxy)["carbon"]; b.Forwarded != lines+1 || b.Resent != uint64(len(again)) {
		t.Errorf("%d forwarded, %d resent", b.Forwarded, b.Resent)
	}
}

// What memory can't hold goes to disk, and comes from there when the upstream is
// back; but what is new comes first.
func TestSpool(t *testing.T) {
	carbon := newSink(t, "tcp")
	carbon.close()
	cfg, opt := keptConfig(t, carbon.address)
	p := startWith(t, cfg, holding("Denali"), opt)
	conn := p.dial(t, "carbon", 0)
	const lines = 200_000
	writeSpooling(t, p, conn, "host.n%d 1 1700000000", lines)
	if b := balance(t, p.Proxy)["carbon"]; b.Spooled < lines/2 || b.Queued+b.Spooled != lines {
		t.Errorf("not spooled: %+v", b)
	}
	carbon.open()
	seen := make([]bool, lines)
	for _, ln := range carbon.next(lines) {
		var i int
		if _, err := fmt.Sscanf(ln, "Denali.n%d 1 1700000000", &i); err != nil || seen[i] {
			t.Fatalf("got %q, %v; twice: %v", ln, err, err == nil && seen[i])
		}
		seen[i] = true
	}
	eventually(t, "the spool is empty", func() bool {
		b := balance(t, p.Proxy)["carbon"]
		return b.Spooled == 0 && b.Queued == 0 && b.Forwarded == lines && p.keeper.stats().Bytes == 0
	})
}

// Lines that are new go before those that were spooled.
func TestLiveGoFirst(t *testing.T) {
	now := time.Now()
	q := newTestQueue(line.Carbon, 1<<20).(*carbonQueue)
	q.linked = true
	q.books.spooled = 1 // something is on disk
	accept(q, aBatch(now.Add(-time.Minute), nil, false, "old 1 1"))
	accept(q, aBatch(now, nil, false, "new 1 1"))
	for _, want := range []string{"new 1 1\n", "old 1 1\n"} {
		p, _ := q.next(now)
		if p == nil || string(p.bytes()) != want {
			t.Fatalf("got %v, want %q", p, want)
		}
	}
}

// A queue that is smaller than the one before drops nothing of what that left.
func TestAdoptMoreThanTheBound(t *testing.T) {
	dir := t.TempDir()
	file := queueFile{state: dir, dirs: []string{dir}, log: slog.New(slog.DiscardHandler)}
	now := time.Now()
	large := newCarbonQueue(CarbonForward{Queue: 8 << 20})
	large.adopt(file.open())
	accept(large, aBatch(now, nil, false, slices.Repeat([]string{strings.Repeat("x", 999)}, 3<<10)...))
	large.journal.Close(false)

	small := newCarbonQueue(CarbonForward{Queue: 1 << 20})
	small.adopt(file.open()) // 3 MiB
	accept(small, aBatch(now, nil, false, "new 1 1"))
	if b, _ := small.snapshot(); b.dropped[queueFull] > batchSize/1000 { // one piece makes room for what is new
		t.Errorf("%d lines are left, %d dropped", b.queued, b.dropped[queueFull])
	}
}

// A host that says little takes little memory, however long the upstream is down.
func TestFewLinesForLong(t *testing.T) {
	now := time.Now()
	q := newCarbonQueue(CarbonForward{Queue: 8 << 20})
	for i := range 20_000 {
		accept(q, aBatch(now.Add(time.Duration(i)*time.Second), nil, false, "a 1 1"))
	}
	if n := q.named.pieces.len(); n > manyPieces+20_000/5 {
		t.Errorf("%d pieces for 20,000 lines", n)
	}
}

// The backlog pauses, so that the server has time for what is new.
func TestBacklogPauses(t *testing.T) {
	now := time.Now()
	q := newTestQueue(line.Carbon, 64<<20).(*carbonQueue)
	q.linked = true
	q.books.spooled = 1
	old := strings.Repeat("x", 999)
	for range 4 << 10 {
		accept(q, aBatch(now.Add(-time.Minute), nil, false, old))
	}
	burst := func(now time.Time) (bytes int) {
		for p, _ := q.next(now); p != nil; p, _ = q.next(now) {
			bytes += p.size()
		}
		return bytes
	}
	if n := burst(now); n < burstBytes || n > burstBytes+batchSize {
		t.Errorf("a burst of %d bytes", n)
	}
	now = now.Add(30 * time.Millisecond)
	q.Ack(now, q.sent)
	if p, wait := q.next(now); p != nil || wait != 10*time.Millisecond {
		t.Errorf("after a burst of 30 ms: %v, a pause of %v", p, wait)
	}
	accept(q, aBatch(now, nil, false, "new 1 1"))
	if p, _ := q.next(now); p == nil || string(p.bytes()) != "new 1 1\n" {
		t.Errorf("what is new waits for the backlog: %v", p)
	}
	if n := burst(now.Add(10 * time.Millisecond)); n < burstBytes {
		t.Errorf("the next burst has %d bytes", n)
	}
}

// What waits without a name is spooled without one, and gets it when it comes.
func TestSpoolUnnamed(t *testing.T) {
	carbon := newSink(t, "tcp")
	cfg, opt := keptConfig(t, carbon.address)
	names := noNames()
	p := startWith(t, cfg, names, opt)
	const lines = 50_000
	writeSpooling(t, p, p.dial(t, "carbon", 0), "host.n%05d 1 1700000000", lines)
	if b := balance(t, p.Proxy)["carbon"]; b.Spooled < lines/4 {
		t.Errorf("not spooled: %+v", b)
	}
	names.set(membership.NewClaim("KingPeak", time.Hour), membership.Holding)
	got := carbon.next(lines)
	slices.Sort(got)
	for i, ln := range got {
		if want := fmt.Sprintf("KingPeak.n%05d 1 1700000000", i); ln != want {
			t.Fatalf("line %d: got %q, want %q", i, ln, want)
		}
	}
	eventually(t, "the books are closed", func() bool { return balance(t, p.Proxy)["carbon"].Forwarded == lines })
	carbon.none()
}

// What is left at the end is there at the next start: named or not, whether the
// disk takes it or not.
func TestStopKeeps(t *testing.T) {
	for _, spool := range []conf.Bytes{0, 1 << 30} {
		t.Run(spool.String(), func(t *testing.T) {
			carbon := newSink(t, "tcp")
			carbon.close()
			cfg, opt := keptConfig(t, carbon.address)
			cfg.Forward.Carbon.Spool = spool
			names := holding("Denali")
			p := startWith(t, cfg, names, opt)
			conn := p.dial(t, "carbon", 0)
			write(t, conn, numbered("host.n%d 1 1700000000", 0, 1000))
			eventually(t, "the lines are named", func() bool { return balance(t, p.Proxy)["carbon"].Queued == 1000 })
			names.set(nil, membership.Claiming)
			write(t, conn, numbered("host.n%d 1 1700000000", 1000, 2000))
			eventually(t, "the lines wait", func() bool { return balance(t, p.Proxy)["carbon"].Queued == 2000 })
			p.stop()
			if b := balance(t, p.Proxy)["carbon"]; b.Queued+b.Spooled != 2000 {
				t.Errorf("after the end: %+v", b)
			}
			_, err := os.Stat(p.carbon.journal.Path())
			if left := err == nil; left != (spool == 0) {
				t.Errorf("the queue's file is left: %v", left)
			}

			carbon.open()
			p = startWith(t, cfg, holding("MtLogan"), opt)
			got := carbon.next(2000)
			named := 0
			for _, ln := range got {
				if strings.HasPrefix(ln, "Denali.") {
					named++
				} else if !strings.HasPrefix(ln, "MtLogan.") {
					t.Fatalf("got %q", ln)
				}
			}
			if named != 1000 {
				t.Errorf("%d lines have kept their name", named)
			}
			eventually(t, "the books are closed", func() bool { return balance(t, p.Proxy)["carbon"].Forwarded == 2000 })
			if b := balance(t, p.Proxy)["carbon"]; b.Adopted != 2000 {
				t.Errorf("adopted: %+v", b)
			}
			carbon.none()
		})
	}
}

// A disk that does not work is told once, costs nothing while memory lasts, and
// is used as soon as it works.
func TestSpoolOutOfOrder(t *testing.T) {
	dir := t.TempDir()
	var log syncBuffer
	q := newTestQueue(line.Carbon, 1<<20).(*carbonQueue)
	q.spool = 1 << 30
	k := &keeper{
		queue: q, dir: filepath.Join(dir, "spool"), naming: newNaming(noNames(), line.Rules{From: "host", To: "{name}"}),
		log: slog.New(slog.NewTextHandler(&log, nil)),
	}
	if err := os.WriteFile(k.dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	accept(q, aBatch(now, nil, false, slices.Repeat([]string{"a 1 1"}, 100_000)...))
	for i := range 3 {
		if wait := k.work(now); wait <= 0 {
			t.Fatalf("attempt %d: no other one", i)
		}
		now = now.Add(time.Minute)
	}
	if n := strings.Count(log.String(), "spool out of order"); n != 1 {
		t.Errorf("it was said %d times: %s", n, &log)
	}
	if b, _ := q.snapshot(); b.queued != 100_000 {
		t.Errorf("%d lines are left in memory", b.queued)
	}
	if err := os.Remove(k.dir); err != nil {
		t.Fatal(err)
	}
	k.work(now)
	if b, size := q.snapshot(); b.spooled == 0 || b.queued+b.spooled != 100_000 || size > 1<<19 {
		t.Errorf("%d queued, %d spooled", b.queued, b.spooled)
	}
	if !strings.Contains(log.String(), "spool in order again") {
		t.Errorf("not said: %s", &log)
	}
}

// Whatever happens in whatever order, every line arrives, and the books balance
// in every process.
func TestDeliveryModel(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			m := newDeliveryModel(t, seed)
			for range 300 {
				m.step()
				m.check()
			}
			m.finish()
		})
	}
}

// A deliveryModel runs a Carbon queue and its keeper by hand, with a peer that
// reads when it likes and dies when it likes.
type deliveryModel struct {
	*testing.T
	rand *rand.Rand
	dir  string
	now  time.Time

	names *fakeNames
	q     *carbonQueue
	k     *keeper

	linked  bool
	sent    []byte // on this connection
	acked   int    // of sent
	read    int    // of acked
	written int    // lines that were put
	arrived map[string]bool
}

const modelReplay = 20 << 10

func newDeliveryModel(t *testing.T, seed uint64) *deliveryModel {
	m := &deliveryModel{
		T: t, rand: rand.New(rand.NewPCG(seed, 0)), dir: t.TempDir(), now: time.Now(),
		names: holding("Denali"), arrived: map[string]bool{},
	}
	m.start()
	return m
}

// start is the start of a process.
func (m *deliveryModel) start() {
	n := newNaming(m.names, line.Rules{From: "host", To: "{name}", Names: []string{"Denali"}})
	m.q = newCarbonQueue(CarbonForward{Queue: 1 << 20, Replay: modelReplay, Spool: 1 << 30})
	m.k = &keeper{queue: m.q, dir: filepath.Join(m.dir, "spool"), naming: n, ingest: newIngest(line.Carbon, &badLines{}), log: slog.New(slog.DiscardHandler)}
	j, left := queueFile{state: m.dir, dirs: []string{m.dir}, log: m.k.log}.open()
	m.q.adopt(j, left)
	m.k.work(m.now)
}

// step does something.
func (m *deliveryModel) step() {
	m.now = m.now.Add(time.Duration(m.rand.IntN(50)) * time.Millisecond)
	switch m.rand.IntN(20) {
	case 0, 1, 2, 3:
		m.put(1 + m.rand.IntN(3000))
	case 4:
		m.put(1 + m.rand.IntN(20_000))
	case 5, 6, 7, 8:
		m.send(1 + m.rand.IntN(20))
	case 9, 10, 11:
		m.ack(m.rand.IntN(len(m.sent) - m.acked + 1))
	case 12, 13:
		m.peerReads()
	case 14, 15:
		m.k.work(m.now)
	case 16:
		m.lose()
	case 17:
		m.toggleName()
	case 18:
		m.name()
	case 19:
		if m.rand.IntN(4) == 0 {
			m.restart(m.rand.IntN(2) == 0)
		}
	}
}

// put is what a reader does.
func (m *deliveryModel) put(lines int) {
	in := newIngest(line.Carbon, &badLines{})
	in.begin(m.now, m.k.naming.current(m.q))
	for range lines {
		in.line(fmt.Appendf(nil, "host.n%d 1 1", m.written))
		m.written++
	}
	m.q.accept(&in.tally, in.end()...)
	if len(m.q.keeper) > 0 {
		m.k.work(m.now) // before the next one can overrun the memory
	}
}

// send is what a sender does.
func (m *deliveryModel) send(pieces int) {
	if !m.linked {
		m.q.Begin(m.now, outlet.Session{Upstream: "upstream"})
		m.linked, m.sent, m.acked, m.read = true, nil, 0, 0
	}
	for range pieces {
		lines, _, _ := m.q.Next(m.now)
		if len(lines) == 0 {
			return
		}
		m.sent = append(m.sent, lines...)
		m.q.Wrote(m.now, len(lines))
	}
}

// ack is what a peer's kernel does: it takes n more bytes, as far as it has room.
func (m *deliveryModel) ack(n int) {
	m.acked = min(m.acked+n, m.read+modelReplay)
	m.q.Ack(m.now, uint64(m.acked))
}

// peerReads is what the peer does with some of what its kernel has.
func (m *deliveryModel) peerReads() { m.read += m.rand.IntN(m.acked - m.read + 1) }

// lose ends the connection: what the peer has not read is lost, and so is a line
// of which it has read a part.
func (m *deliveryModel) lose() {
	whole := bytes.LastIndexByte(m.sent[:m.read], '\n') + 1
	for ln := range strings.Lines(string(m.sent[:whole])) {
		m.arrived[ln] = true
	}
	if m.linked {
		m.q.End(m.now, outlet.Broken)
	}
	m.linked, m.sent, m.acked, m.read = false, nil, 0, 0
}

func (m *deliveryModel) toggleName() {
	if _, ok := m.names.Current(); ok {
		m.names.set(nil, membership.Claiming)
		return
	}
	m.names.set(membership.NewClaim("Denali", time.Hour), membership.Holding)
}

// name is what the namer does.
func (m *deliveryModel) name() {
	n := newNamer(m.k.naming, [2]queue{newStatsDQueue(1 << 20), m.q}, &badLines{})
	n.pass(m.now, time.Time{})
}

// restart ends the process, killed or not, and starts the next.
func (m *deliveryModel) restart(kill bool) {
	m.lose()
	file := queueFile{state: m.dir, dirs: []string{m.dir}, log: m.k.log}
	if kill {
		m.q.journal.Close(false)
	} else {
		m.k.keepRest()
		file.close(m.q.journal, m.q.left() == 0)
	}
	m.start()
}

// check looks at the books, and at the memory.
func (m *deliveryModel) check() {
	m.Helper()
	b, size := m.q.snapshot()
	r := b.report()
	out := r.Forwarded + r.Queued + r.Spooled
	for why, n := range r.Dropped {
		m.Fatalf("%d lines dropped: %s", n, why)
	}
	if r.Received+r.Adopted != out {
		m.Fatalf("the books do not balance: %+v", r)
	}
	if b.spooled < 0 || b.queued < 0 || size > 1<<20 || size < 0 || m.q.windowBytes > 1<<20+batchSize {
		m.Fatalf("%d queued, %d spooled, %d bytes, %d in the window", b.queued, b.spooled, size, m.q.windowBytes)
	}
}

// finish lets all arrive.
func (m *deliveryModel) finish() {
	m.names.set(membership.NewClaim("Denali", time.Hour), membership.Holding)
	for i := 0; ; i++ {
		m.now = m.now.Add(10 * time.Millisecond)
		m.name()
		m.k.work(m.now)
		m.send(100)
		m.ack(len(m.sent) - m.acked)
		m.read = m.acked
		m.check()
		if b, _ := m.q.snapshot(); m.acked == len(m.sent) && b.queued == 0 && b.spooled == 0 {
			break
		}
		if i > 100_000 {
			b, _ := m.q.snapshot()
			m.Fatalf("it never ends: %+v", b.report())
		}
	}
	m.lose()
	for i := range m.written {
		if ln := fmt.Sprintf("Denali.n%d 1 1\n", i); !m.arrived[ln] {
			m.Fatalf("line %d of %d has not arrived", i, m.written)
		}
	}
	for i := range m.written {
		delete(m.arrived, fmt.Sprintf("Denali.n%d 1 1\n", i))
	}
	for ln := range m.arrived {
		m.Fatalf("%d other lines arrived, like %q", len(m.arrived), ln)
	}
	m.noBlocksLeft()
}

// noBlocksLeft checks that all memory is back but for the window's.
func (m *deliveryModel) noBlocksLeft() {
	used := map[*block]bool{}
	for _, p := range slices.Concat(m.q.window.all(), m.q.unacked.all(), m.q.again.all()) {
		used[p.block] = true
	}
	for b := range used {
		if b.pieces == 0 {
			m.Error("a block in use has no pieces")
		}
	}
	if n := len(used); n > m.q.windowBytes/journal.Room+8 {
		m.Errorf("%d blocks for a window of %d bytes", n, m.q.windowBytes)
	}
}
