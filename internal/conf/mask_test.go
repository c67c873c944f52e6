package conf

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestMask(t *testing.T) {
	for _, secret := range []string{
		"http://root:s3cret@etcd:2379", "tcp://s3cret@a:1", "root:s3cret@etcd:2379", "password: s3cret", "password=s3cret", "--token=s3cret", "PASSWORD=s3cret", "etcd_token: s3cret",
		"tcp://a:1?token=s3cret&mode=0660", `"tcp://a:1?s3=s3cret" is no address`, "http://a:s3cret%@b", "http://root:a@s3cret@b:1", "api-key=s3cret", "pw: http://:s3cret@x",
		"root:s3cret:2379", "udp:s3cret", "udp:s3cret:123456", "open root:s3cret: no such file", "unexpected argument root:ü-s3cret",
	} {
		got := Mask(secret)
		if strings.Contains(got, "s3cret") {
			t.Errorf("%q is told as %q", secret, got)
		}
		if utf8.RuneCountInString(got) != utf8.RuneCountInString(secret) {
			t.Errorf("%q: %d characters became %d", secret, utf8.RuneCountInString(secret), utf8.RuneCountInString(got))
		}
	}
	for _, plain := range []string{
		"http://127.0.0.1:2379", "unix:///run/s?", "udp://a:8125", "open /etc/x: no such file", "open /etc/my-secret: no such file", "open ./keys: no such file", "user@example.net", "udp://localhost:statsd", "root:2379",
		`--at "2026-01-31T25:00:00Z" is no time`, `unknown flag --password, did you mean "--protocol"?`, "ttl 2s is out of range", "[udp://x:1, stdout:]", "https://graphite/events/",
	} {
		if got := Mask(plain); got != plain {
			t.Errorf("%q is told as %q", plain, got)
		}
	}
}
