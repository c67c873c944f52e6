package outlet

import (
	"bufio"
	"net"
	"strings"
	"testing"
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
	a := Address{Network: "udp", Host: "127.0.0.1", Port: 1, Health: l.Addr().(*net.TCPAddr).Port}
	for answer, says := range map[string]string{
		"health: up\n":               "",
		"health: down\n":             "down",
		"":                           "EOF",
		"HTTP/1.1 400 Bad Request\n": "400",
		strings.Repeat("x", 1000):    "buffer full",
	} {
		answers <- answer
		err := askHealth(t.Context(), a, a.HostPort())
		if (says == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%.20q: %v", answer, err)
		}
	}
}

func TestParseAddress(t *testing.T) {
	for in, want := range map[string]Address{
		"udp://statsd:8125":             {Network: "udp", Host: "statsd", Port: 8125},
		"udp://[::1]:8125?health=8126":  {Network: "udp", Host: "::1", Port: 8125, Health: 8126},
		"tls://graphite.example.net:1":  {Network: "tls", Host: "graphite.example.net", Port: 1},
		"unix:///run/carbon.sock":       {Network: "unix", Path: "/run/carbon.sock"},
		"unixgram:///run/statsd.socket": {Network: "unixgram", Path: "/run/statsd.socket"},
		"stdout:":                       {Network: "stdout"},
	} {
		got, err := ParseAddress(in)
		if err != nil || got != want {
			t.Errorf("ParseAddress(%q) = %+v, %v; want %+v", in, got, err, want)
		}
		if again, err := ParseAddress(got.String()); err != nil || again != got {
			t.Errorf("%q is written as %q, which is %+v, %v", in, got, again, err)
		}
	}
	for in, hint := range map[string]string{
		"graphite:2003":                        "tcp://graphite:2003",
		"http://graphite":                      "tls",
		"tcp://graphite":                       "host:port",
		"tcp://graphite:0":                     "1 to 65535",
		"tcp://::1:2003":                       "brackets",
		"tcp://user:secret@graphite:2003":      "no user or password",
		"tcp://graphite:2003?health=1":         "udp://",
		"udp://statsd:8125?health=1&health=2":  "doubled",
		"udp://statsd:8125?health=x":           "1 to 65535",
		"unix://run/s.sock":                    "absolute path",
		"unix:///run/s.sock?mode=0660":         "takes no options",
		"unix:///":                             "directory",
		"udp://a b:1":                          "no host",
		"tcp://a:b@c:1":                        "no user",
		"tcp://999.1.1.1:1":                    "no host",
		"unix:///" + strings.Repeat("x", 1000): "107",
	} {
		_, err := ParseAddress(in)
		if err == nil || !strings.Contains(err.Error(), hint) {
			t.Errorf("ParseAddress(%.40q): %v, want a remedy with %q", in, err, hint)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("a password is shown: %v", err)
		}
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"udp://localhost:8125?health=1", "unix:///a", "stdout:", "tls://[::1]:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err != nil {
			return
		}
		if again, err := ParseAddress(a.String()); err != nil || again != a {
			t.Errorf("%q is written as %q, which is %+v, %v", s, a, again, err)
		}
	})
}
