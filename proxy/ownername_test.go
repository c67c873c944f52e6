package proxy

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/line"
)

// Who puts the host's own name below the recycled one is told so, once.
func TestOwnName(t *testing.T) {
	r := newRewriters(line.Rules{From: "host", To: "servers.{name}", Names: []string{"Denali"}}, newClaim("Denali", time.Hour))
	for lines, want := range map[string]bool{
		"servers.Denali.foo-ns31.load.shortterm 1 1\n":     true,
		"servers.Denali.foo-ns31_example_com.load:1|g\n":   true,
		"servers.Denali.api.foo-ns31:1|c\n":                true,
		line.Mark + ".foo-ns31.load:1|g\n":                 true, // becomes a point
		"servers.Denali.api.requests:1|c|#host:foo-ns31\n": false,
		"servers.Denali.foo-ns310.load 1 1\n":              false,
		"servers.foo-ns31.load 1 1\n":                      false, // not under our name
		"":                                                 false,
	} {
		var log bytes.Buffer
		o := newOwnName("foo-ns31.example.com", slog.New(slog.NewTextHandler(&log, nil)))
		o.look([]byte(lines), r)
		o.look([]byte(lines), r)
		if n := strings.Count(log.String(), "level=WARN"); n != map[bool]int{true: 1}[want] {
			t.Errorf("%q: %d warnings, want one: %v\n%s", lines, n, want, log.String())
		}
	}
}
