package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/prefixproxy/prefixproxy/internal/config"
	"github.com/prefixproxy/prefixproxy/internal/devetcd/devetcdtest"
	"github.com/prefixproxy/prefixproxy/membership/etcd"
)

// bluePool starts an etcd for the pool blue of four names. It returns a client of
// that, and the configuration file of a host.
func bluePool(t *testing.T) (client *clientv3.Client, file string) {
	t.Helper()
	patience := etcdPatience
	t.Cleanup(func() { etcdPatience = patience })
	etcdPatience = time.Minute // on a busy machine, too
	server := devetcdtest.Start(t)
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{server.Endpoint()}, DialOptions: []grpc.DialOption{grpc.WithChainUnaryInterceptor(devetcdtest.Patiently)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client, configFile(t, `
membership: {pool: blue, names: [Denali, MtLogan, KingPeak, MtBona]}
etcd: {endpoints: [`+server.Endpoint()+`]}
forward: {statsd: {to: [stdout:]}, carbon: {to: [stdout:]}}
`)
}

func TestMembers(t *testing.T) {
	client, file := bluePool(t)
	members := func(args ...string) string {
		t.Helper()
		var out, err bytes.Buffer
		if code := run(append([]string{"members", "--config", file}, args...), nil, &out, &err); code != exitDone {
			t.Fatalf("exit code: got %d, want %d\n%s", code, exitDone, &err)
		}
		return out.String()
	}

	if got, want := members("--json"), `{
  "pool": "blue",
  "members": [],
  "waiting": [],
  "free": 4,
  "most_held": {
    "7d": 0
  }
}
`; got != want {
		t.Errorf("nobody: got %s\nwant %s", got, want)
	}

	past := time.Now().Add(-48 * time.Hour).UTC()
	for key, owner := range map[string]string{
		fmt.Sprintf("blue/tenures/MtBona/%d-2", past.UnixMilli()): fmt.Sprintf(`{"owner":"lisa","lease":"2","from":%q,"to":%q,"ended":"release"}`,
			past.Format(time.RFC3339Nano), past.Add(time.Hour).Format(time.RFC3339Nano)),
		"blue/names/KingPeak":                   "foo-ns31",
		"blue/names/Denali":                     "foo-3le9",
		"blue/names/Everest":                    "not of our list",
		"green/names/MtLogan":                   "another pool",
		"blue/tenures/Denali/1795386417123-0":   `{"owner":"foo-3le9","lease":"0","from":"2026-11-22T22:26:57.123Z"}`,
		"blue/tenures/KingPeak/1795386417123-1": `{"owner":"bart","lease":"1","from":"2026-11-22T22:26:57.123Z"}`,
		"blue/tenures/MtLogan":                  "{}",
	} {
		if _, err := client.Put(t.Context(), "/prefixproxy/"+key, owner); err != nil {
			t.Fatal(err)
		}
	}
	lease, err := client.Grant(t.Context(), 600)
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range map[string]string{
		"names/MtLogan": "foo-7k2p", fmt.Sprintf("waiting/%x", lease.ID): "foo-7k2p",
	} {
		if _, err := client.Put(t.Context(), "/prefixproxy/blue/"+key, value, clientv3.WithLease(lease.ID)); err != nil {
			t.Fatal(err)
		}
	}
	waits, err := client.Grant(t.Context(), 600)
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range map[string]string{"": "foo-9x1z", "/since": "2026-11-22T22:26:57.123Z"} {
		if _, err := client.Put(t.Context(), fmt.Sprintf("/prefixproxy/blue/waiting/%x%s", waits.ID, key), value, clientv3.WithLease(waits.ID)); err != nil {
			t.Fatal(err)
		}
	}
	got := regexp.MustCompile(`[0-9ms]+s ago`).ReplaceAllString(members(), "some ago")
	if want := `NAME      OWNER              SINCE                 STATE                 RENEWED
Denali    foo-3le9           2026-11-22T22:26:57Z  -                     -
MtLogan   foo-7k2p           -                     held                  some ago
KingPeak  foo-ns31           -                     -                     -
Everest   not of our list    -                     -, not in the list    -
                                                                         
-         foo-9x1z           2026-11-22T22:26:57Z  waiting               -
4 held (1 not in the list), 1 free, 1 waiting in pool blue; at most 5 (the list has 4) held at once in the last 7d
`; strings.Join(strings.Fields(got), " ") != strings.Join(strings.Fields(want), " ") {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	got = members("--json")
	if want := `{
  "pool": "blue",
  "members": [
    {
      "name": "Denali",
      "owner": "foo-3le9",
      "since": "2026-11-22T22:26:57.123Z",
      "state": "",
      "listed": true
    },
    {
      "name": "MtLogan",
      "owner": "foo-7k2p",
      "since": null,
      "state": "held",
      "listed": true
    },
    {
      "name": "KingPeak",
      "owner": "foo-ns31",
      "since": null,
      "state": "",
      "listed": true
    },
    {
      "name": "Everest",
      "owner": "not of our list",
      "since": null,
      "state": "",
      "listed": false
    }
  ],
  "waiting": [
    {
      "owner": "foo-9x1z",
      "since": "2026-11-22T22:26:57.123Z"
    }
  ],
  "free": 1,
  "most_held": {
    "7d": 5
  }
}
`; got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}

	cfg, err := configFlag{file}.ProvideConfig()
	if err != nil {
		t.Fatal(err)
	}

	// --watch shows the same (for JSON, without a time before it), until it is told to end.
	for _, asJSON := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		out := until{"held", cancel, new(bytes.Buffer)}
		if err := (&membersCmd{JSON: asJSON, Watch: true}).Run(ctx, &ui{out: out, err: t.Output()}, cfg); err != nil {
			t.Error(err)
		}
		if got := out.String(); asJSON != json.Valid([]byte(got)) || strings.Count(got, "2026-11-22T22:26:57") != 2 {
			t.Errorf("watch: got %s", got)
		}
	}
}

// until calls a function when a word has been written.
type until struct {
	word string
	end  func()
	*bytes.Buffer
}

func (u until) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(u.word)) {
		u.end()
	}
	return u.Buffer.Write(p)
}

// After a change of the list, members still shows everybody who holds a name of the old one.
func TestMembersOfAnotherList(t *testing.T) {
	client, file := bluePool(t)
	const held = 1500
	for i := 0; i < held; {
		var puts []clientv3.Op
		for ; i < held && len(puts) < 100; i++ {
			puts = append(puts, clientv3.OpPut(fmt.Sprintf("/prefixproxy/blue/names/web-%d", i), "foo"))
		}
		if _, err := client.Txn(t.Context()).Then(puts...).Commit(); err != nil {
			t.Fatal(err)
		}
	}
	var out, err bytes.Buffer
	if code := run([]string{"members", "--config", file}, nil, &out, &err); code != exitDone {
		t.Fatalf("exit code: got %d, want %d\n%s", code, exitDone, &err)
	}
	got := out.String()
	if rows := strings.Count(got, "web-"); rows != held || !strings.Contains(got, "1500 held (1500 not in the list), 4 free") {
		t.Errorf("got %d rows, want %d; the last is\n%s", rows, held, got[strings.LastIndexByte(strings.TrimSpace(got), '\n')+1:])
	}
}

// An error of etcd is one sentence, and gives its cause once.
func TestExplain(t *testing.T) {
	cause := errors.New("log in to etcd: context deadline exceeded")
	for _, tt := range []struct {
		err  error
		want string
	}{
		{&etcd.Trouble{What: "the login has not finished yet", Err: cause}, "etcd at http://e1:2379,http://e2:2379: the login has not finished yet: log in to etcd: context deadline exceeded"},
		{&etcd.Trouble{Endpoint: "http://e2:2379 (192.0.2.1:2379)", What: "there is no route to it", Err: syscall.EHOSTUNREACH}, "etcd at http://e2:2379 (192.0.2.1:2379): there is no route to it: no route to host"},
		{syscall.EINVAL, "etcd at http://e1:2379,http://e2:2379: invalid argument"},
	} {
		err := explain(t.Context(), config.Etcd{Endpoints: []string{"http://e1:2379", "http://e2:2379"}}, time.Second, tt.err)
		if err.Error() != tt.want {
			t.Errorf("got %q, want %q", err, tt.want)
		}
		late, cancel := context.WithDeadline(t.Context(), time.Now())
		defer cancel()
		want := strings.Replace(tt.want, ": ", " not reached within 1s: ", 1)
		if err := explain(late, config.Etcd{Endpoints: []string{"http://e1:2379", "http://e2:2379"}}, time.Second, tt.err); err.Error() != want {
			t.Errorf("got %q, want %q", err, want)
		}
	}
}
