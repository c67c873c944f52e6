//go:build linux

package testbed

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/prefixproxy/prefixproxy/internal/retry"
)

// attackConfig is a daemon under attack: StatsD's server takes nothing, Carbon's
// works.
const attackConfig = `
etcd:
  endpoints: ["${ETCD}"]
listen:
  statsd: ["udp://127.0.0.1:0", "tcp://127.0.0.1:0", "unixgram://${DIR}/statsd.gram", "unix://${DIR}/statsd.stream"]
  carbon: ["tcp://127.0.0.1:0", "udp://127.0.0.1:0", "unix://${DIR}/carbon.stream"]
  max_connections: 300
forward:
  statsd: {to: ["tcp://${NOTHING}"], queue: 16MiB}
  carbon: {to: ["tcp://${CARBON}"], queue: 16MiB, replay: 1MiB}
telemetry:
  statsd: false
`

// attackMemory is how much that daemon may have resident: 48 MiB, the queues, and the
// replay window.
const attackMemory = (48 + 16 + 16 + 1) << 20

// A besieged daemon is under attack, and what is to be known to attack it.
type besieged struct {
	*daemon
	statsdUDP, statsdTCP, carbonTCP, carbonUDP string
	done                                       context.Context // the attack is over

	tries map[string]*atomic.Int64 // by attack: how often it was tried
}

func besiege(t testing.TB, d *daemon, done context.Context) *besieged {
	return &besieged{
		daemon: d, done: done,
		tries:     map[string]*atomic.Int64{},
		statsdUDP: d.Address(t, "statsd", "udp:"), statsdTCP: d.Address(t, "statsd", "tcp:"),
		carbonTCP: d.Address(t, "carbon", "tcp:"), carbonUDP: d.Address(t, "carbon", "udp:"),
	}
}

func (v *besieged) path(name string) string { return filepath.Join(v.Dir, name) }

func (v *besieged) pid() int { return v.cmd.Process.Pid }

// pause waits for d, and says whether the attack goes on.
func (v *besieged) pause(d time.Duration) bool {
	return retry.Sleep(v.done, d)
}

// connect connects, and closes when the attack is over; nil: it could not.
func (v *besieged) connect(network, address string) net.Conn {
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(v.done, network, address)
	if err != nil {
		v.pause(10 * time.Millisecond)
		return nil
	}
	context.AfterFunc(v.done, func() { conn.Close() })
	return conn
}

// An attack is done by so many at once, again and again until the attack is over.
type attack struct {
	name, what string
	hands      int
	once       func(v *besieged, rng *rand.Rand)
}

// attacks are those on sockets, lines and the page. None of them may cost others a
// line.
var attacks = []attack{
	{"hogs", "400 connections that send nothing, at a limit of 300", 400, func(v *besieged, rng *rand.Rand) {
		if conn := v.connect("tcp", v.carbonTCP); conn != nil {
			io.Copy(io.Discard, conn) // until it has to make room
			conn.Close()
		}
	}},
	{"unterminated tails", "150 connections with a tail of 17 KB that grows by a byte, and is never idle for long", 150, func(v *besieged, rng *rand.Rand) {
		conn := v.connect("tcp", pickOne(rng, v.carbonTCP, v.statsdTCP))
		if conn == nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, strings.Repeat("x", 17_000))
		for range 4 {
			if _, err := io.WriteString(conn, "x"); err != nil || !v.pause(500*time.Millisecond) {
				return
			}
		}
	}},
	{"huge datagrams", "datagrams of 65,000 bytes by UDP, and of 100 KB by unixgram", 2, func(v *besieged, rng *rand.Rand) {
		line := "host.huge:1|c\n"
		if conn := v.connect("udp", v.statsdUDP); conn != nil {
			defer conn.Close()
			for range 100 {
				io.WriteString(conn, strings.Repeat(line, 65_000/len(line)))
			}
		}
		if conn := v.connect("unixgram", v.path("statsd.gram")); conn != nil {
			defer conn.Close()
			io.WriteString(conn, strings.Repeat(line, 100_000/len(line)))
		}
		v.pause(20 * time.Millisecond)
	}},
	{"framings", "framed streams that end anywhere, and other framings", 4, func(v *besieged, rng *rand.Rand) {
		conn := v.connect("unix", v.path("statsd.stream"))
		if conn == nil {
			return
		}
		defer conn.Close()
		packet := strings.Repeat("host.framed:1|c\n", 1+rng.IntN(100))
		var stream []byte
		order := pickOne[binary.AppendByteOrder](rng, binary.LittleEndian, binary.LittleEndian, binary.BigEndian)
		for range 5 {
			stream = append(order.AppendUint32(stream, uint32(len(packet))), packet...)
		}
		stream = stream[:rng.IntN(len(stream))]
		for len(stream) > 0 {
			n := 1 + rng.IntN(len(stream))
			if _, err := conn.Write(stream[:n]); err != nil {
				return
			}
			stream = stream[n:]
			v.pause(time.Duration(rng.IntN(3)) * time.Millisecond)
		}
	}},
	{"other protocols", "TLS, HTTP, Carbon's pickle, gzip and the PROXY protocol, and then lines", 2, func(v *besieged, rng *rand.Rand) {
		at := pickOne(rng, [2]string{"tcp", v.statsdTCP}, [2]string{"tcp", v.carbonTCP}, [2]string{"unix", v.path("statsd.stream")}, [2]string{"unix", v.path("carbon.stream")})
		conn := v.connect(at[0], at[1])
		if conn == nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, pickOne(rng, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "POST /a HTTP/1.1\r\nHost: a\r\n\r\n",
			"\x00\x00\x01\x00\x80\x02]q\x00", "\x1f\x8b\x08\x08", "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c"))
		io.WriteString(conn, strings.Repeat("host.other 1 1700000000\nhost.other:1|c\n", 1+rng.IntN(100)))
		v.pause(10 * time.Millisecond)
	}},
	{"floods", "StatsD by UDP, one line a datagram, as fast as it goes", 1, func(v *besieged, rng *rand.Rand) {
		if conn := v.connect("udp", v.statsdUDP); conn != nil {
			defer conn.Close()
			for range 10_000 {
				io.WriteString(conn, "host.flood:1|c")
			}
		}
		v.pause(20 * time.Millisecond)
	}},
	{"busy connections", "100 connections of StatsD that bring more than is read", 100, func(v *besieged, rng *rand.Rand) {
		if conn := v.connect("tcp", v.statsdTCP); conn != nil {
			io.WriteString(conn, strings.Repeat("host.busy:1|c\n", 20_000))
			conn.Close()
		}
		v.pause(time.Second)
	}},
	{"Carbon in bulk", "5,000 lines/s, a connection for each thousand", 1, func(v *besieged, rng *rand.Rand) {
		if conn := v.connect("tcp", v.carbonTCP); conn != nil {
			io.WriteString(conn, strings.Repeat("host.bulk 1 1700000000\n", 1000))
			conn.Close()
		}
		v.pause(200 * time.Millisecond)
	}},
	{"garbage", "random bytes, on each listener", 2, func(v *besieged, rng *rand.Rand) {
		junk := make([]byte, 1+rng.IntN(60_000))
		for i := range junk {
			junk[i] = byte(rng.Uint32())
		}
		for _, at := range [][2]string{
			{"tcp", v.statsdTCP}, {"tcp", v.carbonTCP}, {"udp", v.statsdUDP}, {"udp", v.carbonUDP},
			{"unix", v.path("statsd.stream")}, {"unix", v.path("carbon.stream")}, {"unixgram", v.path("statsd.gram")},
		} {
			if conn := v.connect(at[0], at[1]); conn != nil {
				conn.Write(junk)
				conn.Close()
			}
		}
		v.pause(50 * time.Millisecond)
	}},
	{"descriptors", "the limit of descriptors is three more than are open, for a second, every three", 1, func(v *besieged, rng *rand.Rand) {
		var before unix.Rlimit
		if !v.pause(2*time.Second) || unix.Prlimit(v.pid(), unix.RLIMIT_NOFILE, nil, &before) != nil {
			return
		}
		open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", v.pid()))
		if err != nil {
			return
		}
		few := unix.Rlimit{Cur: uint64(len(open) + 3), Max: before.Max}
		unix.Prlimit(v.pid(), unix.RLIMIT_NOFILE, &few, nil)
		v.pause(time.Second)
		unix.Prlimit(v.pid(), unix.RLIMIT_NOFILE, &before, nil)
	}},
	{"the page", "connections that ask for nothing, for /metrics, again and again without reading, byte by byte, and with a megabyte of headers", 20, func(v *besieged, rng *rand.Rand) {
		conn := v.connect("unix", v.path("admin.sock"))
		if conn == nil {
			return
		}
		defer conn.Close()
		const get = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n"
		switch rng.IntN(6) {
		case 0:
			v.pause(time.Second)
		case 1:
			io.WriteString(conn, strings.Repeat(get+"\r\n", 100))
			v.pause(time.Second)
		case 2:
			for _, c := range []byte(get) {
				if _, err := conn.Write([]byte{c}); err != nil || !v.pause(100*time.Millisecond) {
					return
				}
			}
		case 3:
			io.WriteString(conn, get+strings.Repeat("X: y\r\n", 1<<18))
		default:
			io.WriteString(conn, get+"\r\n")
			if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil {
				io.Copy(io.Discard, resp.Body)
			}
		}
		v.pause(20 * time.Millisecond)
	}},
}

func pickOne[T any](rng *rand.Rand, of ...T) T { return of[rng.IntN(len(of))] }

// begin begins attacks. They end with v.done, and then wait says so.
func (v *besieged) begin(seed uint64, attacks ...attack) (wait func()) {
	var hands sync.WaitGroup
	for i, a := range attacks {
		tries := new(atomic.Int64)
		v.tries[a.name] = tries
		for hand := range a.hands {
			rng := rand.New(rand.NewPCG(seed, uint64(i<<16+hand)))
			hands.Go(func() {
				for v.done.Err() == nil {
					tries.Add(1)
					a.once(v, rng)
				}
			})
		}
	}
	return hands.Wait
}

// A client sends Carbon lines as a well-behaved program does: a stream of numbered ones.
type client struct {
	name   string
	lines  *tallier
	stream *stream
	seq    uint32
}

// line returns the next line.
func (c *client) line() string {
	n := numbered{carbon: true, stream: c.stream.id, seq: c.seq, sent: time.Now().UnixMilli()}
	c.seq++
	line := n.append(nil, nameSent)
	c.lines.wrote(c.stream, 1, len(line))
	return string(line)
}

// clients are well-behaved ones, by what they do until the attack is over.
var clients = map[string]func(v *besieged, c *client) error{
	// One that stays connected.
	"steady": func(v *besieged, c *client) error {
		var conn net.Conn
		var last time.Time
		for v.pause(50 * time.Millisecond) {
			if time.Since(last) > 500*time.Millisecond { // this machine had no time for it
				var err error
				if conn != nil {
					conn.Close()
				}
				if conn, err = net.Dial("tcp", v.carbonTCP); err != nil {
					return err
				}
			}
			if _, err := io.WriteString(conn, c.line()); err != nil {
				return err
			}
			last = time.Now()
		}
		return conn.Close()
	},
	// One that connects for each line, like a shell script with nc.
	"brief": func(v *besieged, c *client) error { return connectEachTime(v, c, 0) },
	// One that thinks for a while between connecting and its line.
	"thoughtful": func(v *besieged, c *client) error { return connectEachTime(v, c, 50*time.Millisecond) },
	// One that is silent for longer than is polite at the limit, and connects again
	// when it is told.
	"slow": func(v *besieged, c *client) error {
		var conn net.Conn
		for v.pause(1500 * time.Millisecond) {
			for line, tries := c.line(), 0; ; tries++ {
				if conn == nil {
					var err error
					if conn, err = net.Dial("unix", v.path("carbon.stream")); err != nil {
						return err
					}
				}
				_, err := io.WriteString(conn, line)
				if err == nil {
					break
				}
				conn.Close()
				conn = nil
				if tries == 10 {
					return err
				}
			}
		}
		return nil
	},
}

// connectEachTime connects for each line, and waits for a while before it sends that.
func connectEachTime(v *besieged, c *client, wait time.Duration) error {
	for v.pause(50 * time.Millisecond) {
		conn, err := net.Dial("tcp", v.carbonTCP)
		if err != nil {
			return err
		}
		v.pause(wait)
		if _, err := io.WriteString(conn, c.line()); err != nil {
			return err
		}
		conn.Close()
	}
	return nil
}
