package link

import (
	"bufio"
	"net"
	"strings"
	"testing"

	"github.com/prefixproxy/prefixproxy/internal/address"
)

// statsd's management port says whether it is well; whatever else says so is not
// believed.
func TestAskHealth(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	answers := make(chan string, 1)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if question, _ := bufio.NewReader(conn).ReadString('\n'); question == "health\n" {
				conn.Write([]byte(<-answers))
			}
			conn.Close()
		}
	}()
	a := address.Upstream{Address: address.Address{Network: "udp", Host: "127.0.0.1", Port: 1}, Health: l.Addr().(*net.TCPAddr).Port}
	for answer, says := range map[string]string{
		"health: up\n":               "",
		"health: down\n":             "down",
		"":                           "EOF",
		"HTTP/1.1 400 Bad Request\n": "400",
		strings.Repeat("x", 1000):    "buffer full",
	} {
		answers <- answer
		err := AskHealth(t.Context(), a, a.HostPort())
		if (says == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%.20q: %v", answer, err)
		}
	}
}
