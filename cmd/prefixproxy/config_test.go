package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/config"
)

// complete has what has no default; the text of each case follows it.
const complete = `etcd: {endpoints: [http://127.0.0.1:2379]}
forward: {statsd: {to: [udp://statsd:8125]}, carbon: {to: [tcp://graphite:2003]}}
`

func mustParse(t *testing.T, text string) config.Config {
	t.Helper()
	cfg, err := config.Parse("test.yaml", []byte(text), config.Default(), lookupEnv)
	if err != nil {
		t.Fatalf("%s\nin:\n%s", err, text)
	}
	return cfg
}

// configFile returns the path of a file that holds text.
func configFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// The file may be a pipe, as in --config <(…), but it is not waited for forever.
func TestConfigInAPipe(t *testing.T) {
	t.Parallel() // it waits
	load := func(file string) error {
		loaded := make(chan error, 1)
		go func() {
			_, err := loadConfig(file, config.Default())
			loaded <- err
		}()
		select {
		case err := <-loaded:
			return err
		case <-time.After(20 * time.Second):
			t.Fatal("loading waits for who does not write")
			return nil
		}
	}
	named := filepath.Join(t.TempDir(), "config.yaml")
	if err := syscall.Mkfifo(named, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := load(named); err == nil || !strings.Contains(err.Error(), "no etcd endpoint") {
		t.Errorf("without a writer: got %v, want what an empty file gets", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	pipe := fmt.Sprintf("/dev/fd/%d", r.Fd())
	if err := load(pipe); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("with a writer who says nothing: got %v", err)
	}
	fmt.Fprint(w, complete)
	w.Close()
	if err := load(pipe); err != nil {
		t.Errorf("with one who writes: %v", err)
	}
}

// A secret in the wrong place is refused, but not revealed: neither by check nor in the log of a
// reload.
func TestSecretsAreNotTold(t *testing.T) {
	t.Setenv("SECRET", "s3cret")
	t.Setenv("LOGIN", "root:s3cret")
	for text, key := range map[string]string{
		`etcd: {endpoints: ["http://root:s3cret@etcd:2379"]}`:                        "etcd.endpoints[0]",
		`etcd: {endpoints: ["http://root:${SECRET}@etcd:2379"]}`:                     "etcd.endpoints[0]",
		`etcd: {endpoints: ["root:s3cret@etcd:2379"]}`:                               "etcd.endpoints[0]",
		`etcd: {endpoints: ["http://root:s3cret%@etcd"]}`:                            "etcd.endpoints[0]",
		`etcd: {endpoints: ["http://etcd:2379/?password=s3cret"]}`:                   "etcd.endpoints[0]",
		`etcd: {password: s3cret}`:                                                   "etcd.password",
		"etcd:\n  pasword: s3cret":                                                   "etcd.pasword",
		"etcd:\n  auth: {user: root, pw: s3cret}":                                    "etcd.auth",
		`etcd: {endpoints: [http://etcd:2379], password: s3cret, endpoint: x}`:       "etcd.endpoint",
		`etcd: {username: root, password_file: s3cret}`:                              "etcd.password_file",
		"etcd:\n  username: root\n  password_file:\n    s3cret":                      "etcd.password_file",
		"etcd:\n  tls:\n    key: |\n      -----BEGIN PRIVATE KEY-----\n      s3cret": "etcd.tls",
		`forward: {carbon: {to: ["tcp://user:s3cret@graphite:2003"]}}`:               "forward.carbon.to[0]",
		`forward: {carbon: {to: ["tcp://s3cret@graphite:2003"]}}`:                    "forward.carbon.to[0]",
		`forward: {carbon: {to: ["tcp://graphite:2003?token=s3cret"]}}`:              "forward.carbon.to[0]",
		`forward: {carbon: {to: ["https://graphite/?apikey=s3cret", "x:s3cret@y"]}}`: "forward.carbon.to[0]",
		`admin: {listen: "http://admin:s3cret@127.0.0.1:8127"}`:                      "admin.listen",
		`listen: {statsd: ["udp://user:${SECRET}@localhost:8125"]}`:                  "listen.statsd[0]",
		`etcd: {endpoints: ["http://root:s3cret%40etcd:2379"]}`:                      "etcd.endpoints[0]",
		`etcd: {endpoints: ["http://root:a@s3cret@etcd:2379"]}`:                      "etcd.endpoints[0]",
		`etcd: {endpoints: ["http://root:a s3cret@etcd:2379"]}`:                      "etcd.endpoints[0]",
		`etcd: {endpoints: ["http://root\u003as3cret\u0040etcd:2379"]}`:              "etcd.endpoints[0]",
		`etcd: {endpoints: ["p\u0061ssword=s3cret"]}`:                                "etcd.endpoints[0]",
		`etcd: {endpoints: "root:s3cret	@etcd"}`:                                     "etcd.endpoints",
		`etcd: {password: *s3cret}`:                                                  "",
		`etcd: {tls: {ca: "-----BEGIN CERTIFICATE-----\ns3cret"}}`:                   "etcd.tls.ca",
		`etcd: {username: "root:s3cret@"}`:                                           "etcd.username",
		`etcd: {username: "root:s3cret"}`:                                            "etcd.username",
		`etcd: {username: "${LOGIN}"}`:                                               "etcd.username",
		`listen: {carbon: ["Basic s3cret"]}`:                                         "listen.carbon[0]",
		`listen: {carbon: "x\n-s3cret:y@h"}`:                                         "listen.carbon",
		`admin: {listen: "root:s3cret/a@h:1"}`:                                       "admin.listen",
		`graphite: {events: "Bearer s3cret"}`:                                        "graphite.events",
		"graphite:\n  pw: s3cret:\n    x: y: z":                                      "",
		"coalesce: 5ms\ncoalesce: s3cret":                                            "coalesce",
		`etcd: {tls: {ca: "root: s3cret@etcd"}}`:                                     "etcd.tls.ca",
	} {
		file := configFile(t, text+"\n")
		var out, err bytes.Buffer
		if code := run([]string{"check", "--config", file}, nil, &out, &err); code != exitConfig {
			t.Errorf("%s: exit code: got %d, want %d", text, code, exitConfig)
		}
		if told := out.String() + err.String(); strings.Contains(told, "s3cret") || !strings.Contains(told, key+": ") {
			t.Errorf("%s: got %s", text, told)
		}
		_, failed := loadConfig(file, config.Default())
		if told := fmt.Sprint(failed); strings.Contains(told, "s3cret") {
			t.Errorf("%s: got the error %s", text, told)
		}
	}
}

// What was typed may contain a secret, too.
func TestSecretsOnTheCommandLine(t *testing.T) {
	for _, args := range []string{
		"members root:s3cret", "--password=s3cret members", "members --user root:s3cret", "run --config http://root:s3cret@h/x", "check http://root:s3cret@h", "check --config=root:s3cret", "check --password s3cret",
	} {
		var out, err bytes.Buffer
		if code := run(strings.Fields(args), nil, &out, &err); code != exitUsage && code != exitConfig {
			t.Errorf("%s: exit code %d", args, code)
		}
		if told := out.String() + err.String(); strings.Contains(told, "s3cret") {
			t.Errorf("%s: got %s", args, told)
		}
	}
}

// check prints no secret, even if the configuration contains one.
func TestCheckMasks(t *testing.T) {
	file := configFile(t, `{etcd: {endpoints: [etcd:2379]}, forward: {statsd: {to: [stdout:]}, carbon: {to: [stdout:]}},
  graphite: {events: "https://graphite/events/?api_key=s3cret"}}`)
	var out, err bytes.Buffer
	if code := run([]string{"check", "--config", file}, nil, &out, &err); code != exitDone {
		t.Fatalf("exit code %d: %s", code, err.String())
	}
	if told := out.String() + err.String(); strings.Contains(told, "s3cret") || !strings.Contains(told, "?api_key=******") {
		t.Errorf("got %s", told)
	}
}
