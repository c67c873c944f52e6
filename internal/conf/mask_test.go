package conf

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestMask(t *testing.T) {
	for _, secret := range []string{
		"http://root:s3cret@etcd:2379", "tcp://s3cret@a:1", "root:s3cret@etcd:2379", `["https://a:s3cret@b", x]`, "password: s3cret", "  passwd: 's3cret # x'",
		"{username: a, password: s3cret, endpoints: [b]}", "PASSWORD=s3cret", "etcd_token: s3cret", `"api_key": "s3cret"`, "tcp://a:1?token=s3cret&mode=0660",
		`"tcp://a:1?s3=s3cret" is no address`, "pw: http://:s3cret@x", "secret: ü s3cret", "db-password : s3cret", "http://a:s3cret%@b",
		"{username: root, password_file: s3cret}", "http://root:a@s3cret@b:1", "pw: s3cret", "api-key = s3cret",
		"root:s3cret:2379", "udp:s3cret", "udp:s3cret:123456",
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
		"http://127.0.0.1:2379", "password_file: /etc/prefixproxy/etcd-password", "unix:///run/s?mode=0660&group=adm", "udp://a:8125?health=8126",
		"to: servers.{name}", `open /etc/x: no such file`, `password_file: ""`, "{password_file: ${DIR}/pw, tls: {}}", "names: {prefix: web-, count: 3}", "a: 1 @ 2", "user@example.net",
		"unix:///@abstract", "udp:localhost:8125", "TCP4:graphite.example.net:2003", "udp://localhost:statsd",
		`ttl 2s is out of range`, "[udp://x:1, stdout:]",
	} {
		if got := Mask(plain); got != plain {
			t.Errorf("%q is told as %q", plain, got)
		}
	}
}
