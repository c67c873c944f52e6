package config

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/prefixproxy/prefixproxy/internal/devetcd"
	"github.com/prefixproxy/prefixproxy/internal/devetcd/devetcdtest"
	"github.com/prefixproxy/prefixproxy/internal/unit"
)

func writeFile(t *testing.T, name, text string, mode fs.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask is
		t.Fatal(err)
	}
	return path
}

func TestEtcdProblems(t *testing.T) {
	secret := writeFile(t, "secret", "s3cret\n", 0o600)
	open := writeFile(t, "open", "s3cret\n", 0o644)
	empty := writeFile(t, "empty", "\n", 0o600)
	one := []string{"http://127.0.0.1:2379"}
	for _, tt := range []struct {
		name string
		etcd Etcd
		want string // what the problems hold; "": none
	}{
		{"http", Etcd{Endpoints: one}, ""},
		{"without a scheme", Etcd{Endpoints: []string{"etcd:2379", "[::1]:2379"}}, ""},
		{"the zone of an address", Etcd{Endpoints: []string{"http://[fe80::1%25eth0]:2379", "[fe80::1%eth0]:2379"}}, ""},
		{"an empty zone", Etcd{Endpoints: []string{"http://[fe80::1%]:2379"}}, "etcd.endpoints[0]"},
		{"https", Etcd{Endpoints: []string{"https://etcd:2379/"}}, ""},
		{"scheme in capitals", Etcd{Endpoints: []string{"HTTPS://a:1", "https://b:1"}}, ""},
		{"user", Etcd{Endpoints: one, Username: "u", PasswordFile: secret}, ""},
		{"none", Etcd{}, "etcd.endpoints: no etcd endpoint"},
		{"empty", Etcd{Endpoints: []string{""}}, `etcd.endpoints[0]: "" is no endpoint`},
		{"no port", Etcd{Endpoints: []string{"http://etcd:65536"}}, `etcd.endpoints[0]: "http://etcd:65536" is no endpoint`},
		{"no host", Etcd{Endpoints: []string{"http://et!cd:2379"}}, `etcd.endpoints[0]: "http://et!cd:2379" is no endpoint`},
		{"without a port", Etcd{Endpoints: []string{"http://etcd"}}, `etcd.endpoints[0]: "http://etcd" is no endpoint`},
		{"with a path", Etcd{Endpoints: []string{"http://etcd:2379/v3"}}, "etcd.endpoints[0]"},
		{"with a fragment", Etcd{Endpoints: []string{"http://etcd:2379#x"}}, "etcd.endpoints[0]"},
		{"port 0", Etcd{Endpoints: []string{"http://etcd:0"}}, "etcd.endpoints[0]"},
		{"another scheme", Etcd{Endpoints: []string{"unix:///etcd"}}, "etcd.endpoints[0]"},
		{"mixed", Etcd{Endpoints: []string{"http://a:1", "https://b:1"}}, "etcd.endpoints[1]: http:// and https:// endpoints are mixed"},
		{"user without a file", Etcd{Endpoints: one, Username: "u"}, `etcd.password_file: there is a username, but no password_file`},
		{"file without a user", Etcd{Endpoints: one, PasswordFile: secret}, "etcd.username: there is a password_file, but no username"},
		{"no such file", Etcd{Endpoints: one, Username: "u", PasswordFile: "/no/such"}, "etcd.password_file: open /no/such: no such file or directory"},
		{"empty file", Etcd{Endpoints: one, Username: "u", PasswordFile: empty}, "etcd.password_file: " + empty + " is empty"},
		{"open file", Etcd{Endpoints: one, Username: "u", PasswordFile: open}, "etcd.password_file: others may read " + open + " (mode 0644)"},
		{"tls over http", Etcd{Endpoints: one, TLS: TLS{CA: "/no/such"}}, "etcd.endpoints[0]: there is an etcd.tls"},
		{"no such authority", Etcd{Endpoints: []string{"https://a:1"}, TLS: TLS{CA: "/no/such"}}, "etcd.tls.ca: open /no/such: no such file or directory"},
		{"no authority", Etcd{Endpoints: []string{"https://a:1"}, TLS: TLS{CA: secret}}, "etcd.tls.ca: " + secret + " contains no PEM certificate"},
		{"no key", Etcd{Endpoints: []string{"https://a:1"}, TLS: TLS{Cert: secret}}, "etcd.tls: cert and key go together"},
		{"no pair", Etcd{Endpoints: []string{"https://a:1"}, TLS: TLS{Cert: secret, Key: secret}}, "etcd.tls.cert: "},
	} {
		got := tt.etcd.Problems().Error()
		if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
		if got != "" {
			continue
		}
		c, err := tt.etcd.Client()
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		c.Close()
	}
}

// Whoever follows the hints ends up with a password file that the service can read, and others can't.
func TestPasswordHint(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("secret\nand more\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := Etcd{Endpoints: []string{"http://etcd:2379"}, Username: "u", PasswordFile: file}
	if _, err := c.password(); err == nil || !strings.Contains(err.Error(), "more than one line") {
		t.Errorf("two lines: got %v, want more than one line", err)
	}
	for _, text := range []string{"\ufeffsecret\n", "s\x00e\x00", "se\tcret"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := c.password(); err == nil || !strings.Contains(err.Error(), "invisible character") {
			t.Errorf("%q: got %v, want an invisible character", text, err)
		}
	}
	own := "chmod 0600 "
	if os.Getuid() == 0 {
		own = "chgrp prefixproxy " + file + " && chmod 0640 "
	}
	for _, tt := range []struct {
		name, file string
		unit       bool
		err        error
		want       string
	}{
		{"others may read it", file, false, errOthersMayRead, own},
		{"we may not", file, false, fs.ErrPermission, "sudo "},
		{"the service may not", file, true, fs.ErrPermission, "chgrp prefixproxy " + file},
		{"the unit has no line for a credential", unit.Credentials + "/secret", true, fs.ErrPermission, "LoadCredential=secret:"},
		{"it is not there", file + "x", false, fs.ErrNotExist, "install -m 0640"},
	} {
		if t.Setenv("RUNTIME_DIRECTORY", ""); tt.unit {
			t.Setenv("RUNTIME_DIRECTORY", "/run/prefixproxy:/run/prefixproxy-queue")
			t.Setenv("INVOCATION_ID", "8a3e")
		}
		c.PasswordFile = tt.file
		if got := c.passwordHint(tt.err); !strings.Contains(got, tt.want) {
			t.Errorf("%s: got %q, want %q in it", tt.name, got, tt.want)
		}
	}
	t.Setenv("RUNTIME_DIRECTORY", "/run/prefixproxy:/run/prefixproxy-queue")
	if got := fileHint(&fs.PathError{Path: "/ca.pem", Err: fs.ErrPermission}, ""); !strings.Contains(got, "chgrp prefixproxy /ca.pem") {
		t.Errorf("a certificate that the service may not read: got %q", got)
	}
}

// A user and a password are not revealed under any key, known or not, however they are written, and
// whether or not the file can be parsed.
func TestSecretsUnderEveryKey(t *testing.T) {
	env := func(string) (string, bool) { return "root:s3cret", true }
	paths := []string{"password", "user", "auth", "etcd.pass", "etcd.user", "etcd.login", "forward.statsd.auth", "forward.carbon.token", "graphite.user", "admin.auth", "listen.x"}
	var known []string
	for _, f := range values("", reflect.ValueOf(Default())) {
		path := f.key
		known = append(known, path)
	}
	forms := []string{
		"root:s3cret", "'root:s3cret'", "[root:s3cret]", "root:s3cret@h:1", "http://root:s3cret@h:1", "[http://root:s3cret@h]", "tcp://root:s3cret", "root%3As3cret",
		"{user: root, pass: s3cret}", "{auth: {user: root, password: s3cret}}", "{login: [root, s3cret]}", "'Basic s3cret'", "password=s3cret", "--password s3cret", "-p s3cret", "${LOGIN}", ">\n      root:s3cret",
	}
	odd := []string{
		"s3cret", "[root, s3cret]", "{root: s3cret}", "root s3cret", "root/s3cret", "|\n      root\n      s3cret", "root\n      s3cret", "\"root\\ts3cret\"",
		"\"s3cret", "'s3cret' x", "s3cret: x", "@s3cret", "%s3cret", "`s3cret", "*s3cret", "&s3cret", "!s3cret x", "{s3cret", "[root, s3cret", "\"\\qs3cret\"", "- s3cret", "s3cret\n\tx",
		"unix:///run/s?mode=s3cret", "['unix:///run/s?group=s3cret/x']", "['udp://a:1?health=s3cret']", "[s3cret://a:1]", "['udp://a:s3cret']", "{a: [s3cret], s3cret: 1}",
	}
	check := func(path, form string) {
		t.Helper()
		text, indent := "", ""
		for key := range strings.SplitSeq(path, ".") {
			text += "\n" + indent + key + ":"
			indent += "  "
		}
		_, err := Parse("f", []byte(text+" "+form+"\n"), Default(), env)
		if err == nil {
			return
		}
		if told := tell(err); strings.Contains(told+err.Error(), "s3cret") {
			t.Errorf("%s: %q is told:\n%s", path, form, told)
		}
	}
	for _, path := range slices.Concat(paths, known) {
		for _, form := range forms {
			check(path, form)
		}
	}
	for _, path := range slices.Concat(paths, known) {
		for _, form := range odd {
			if !isFree.MatchString(path) { // its value is a name, and told
				check(path, form)
			}
		}
	}
}

// fakeInfo is a file of a mode and an owner.
type fakeInfo struct {
	fs.FileInfo
	mode fs.FileMode
	uid  uint32
}

func (f fakeInfo) Mode() fs.FileMode { return f.mode }
func (f fakeInfo) Sys() any          { return &syscall.Stat_t{Uid: f.uid} }

func TestOthersMayRead(t *testing.T) {
	for _, tt := range []struct {
		mode fs.FileMode
		uid  uint32
		want bool
	}{
		{0o600, 1000, false},
		{0o400, 0, false},
		{0o440, 0, false}, // systemd's credentials, Kubernetes' fsGroup
		{0o640, 0, false},
		{0o640, 1000, true},
		{0o604, 0, true},
		{0o644, 0, true},
		{0o601, 0, true},
	} {
		if got := othersMayRead(fakeInfo{mode: tt.mode, uid: tt.uid}); got != tt.want {
			t.Errorf("mode %04o of user %d: got %v, want %v", tt.mode, tt.uid, got, tt.want)
		}
	}
}

func TestClientLogsInWhenEtcdAnswers(t *testing.T) {
	server := devetcdtest.Start(t)
	requireLogin(t, server)
	server.Close()
	c := Etcd{Endpoints: []string{server.Endpoint()}, Username: "root", PasswordFile: writeFile(t, "password", "s3cret\n", 0o600)}
	client, err := c.Client() // etcd is down: this must neither wait nor fail
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Put(t.Context(), "key", "value"); err != nil {
		t.Errorf("put as root: %v", err)
	}
	lease, err := client.Grant(t.Context(), 60)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.KeepAliveOnce(t.Context(), lease.ID); err != nil {
		t.Errorf("renew as root: %v", err)
	}

	c.Username = "" // nobody in particular is refused, so it was the login that helped
	anonymous, err := c.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer anonymous.Close()
	if _, err := anonymous.Put(t.Context(), "key", "value"); err == nil {
		t.Error("put without a user: got no error")
	}
}

// requireLogin makes a server refuse all but root, whose password is s3cret.
func requireLogin(t *testing.T, server *devetcd.Server) {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{server.Endpoint()}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, step := range []func(context.Context) error{
		func(ctx context.Context) error { _, err := client.UserAdd(ctx, "root", "s3cret"); return err },
		func(ctx context.Context) error { _, err := client.UserGrantRole(ctx, "root", "root"); return err },
		func(ctx context.Context) error { _, err := client.AuthEnable(ctx); return err },
	} {
		if err := step(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
