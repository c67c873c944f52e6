package testbed

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
)

// A nameServer is a DNS server whose answers a test moves.
type nameServer struct {
	addr string // IP address and port

	mu      sync.Mutex
	answers map[string][]netip.Addr // by name, without the last dot
	mute    bool                    // it answers nothing
	rotates bool                    // it gives one address at a time
}

// newNameServer starts a server. It ends with the test.
func newNameServer(t testing.TB, addr string) *nameServer {
	t.Helper()
	conn, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := &nameServer{addr: conn.LocalAddr().String(), answers: map[string][]netip.Addr{}}
	var serving sync.WaitGroup
	serving.Go(func() { s.serve(conn) })
	t.Cleanup(func() {
		conn.Close()
		serving.Wait()
	})
	return s
}

// startNameServer starts a server that resolv.conf can name: its port is 53, on a
// loopback address of its own.
func startNameServer(t testing.TB) *nameServer {
	t.Helper()
	needRoot(t, "port 53")
	port := sidebyside.FreePort(t) // as unique as a port: the last two bytes of the address
	return newNameServer(t, fmt.Sprintf("127.53.%d.%d:53", port>>8, port&0xff))
}

// move makes a name resolve to addresses, in this order, from now on.
func (s *nameServer) move(name string, to ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[name] = nil
	for _, a := range to {
		s.answers[name] = append(s.answers[name], netip.MustParseAddr(a))
	}
}

// rotate makes it give one of a name's addresses at a time.
func (s *nameServer) rotate() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rotates = true
}

// silence makes it answer nothing, or answer again.
func (s *nameServer) silence(mute bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mute = mute
}

func (s *nameServer) serve(conn net.PacketConn) {
	packet := make([]byte, 1500)
	for {
		n, peer, err := conn.ReadFrom(packet)
		if err != nil {
			return
		}
		if answer := s.answer(packet[:n]); answer != nil {
			conn.WriteTo(answer, peer)
		}
	}
}

// answer returns what is answered to a question; nil: nothing.
func (s *nameServer) answer(packet []byte) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(packet); err != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mute {
		return nil
	}
	name := strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
	addrs, known := s.answers[name]
	if s.rotates && len(addrs) > 1 && q.Type == dnsmessage.TypeA {
		s.answers[name] = append(addrs[1:len(addrs):len(addrs)], addrs[0])
		addrs = addrs[:1]
	}
	m.Response, m.Authoritative, m.Additionals = true, true, nil
	if !known {
		m.RCode = dnsmessage.RCodeNameError
	}
	for _, a := range addrs {
		if q.Type == dnsmessage.TypeA && a.Is4() {
			m.Answers = append(m.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class},
				Body:   &dnsmessage.AResource{A: a.As4()},
			})
		}
	}
	answer, err := m.Pack()
	if err != nil {
		return nil
	}
	return answer
}
