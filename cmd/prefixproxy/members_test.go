package main

import (
	"bytes"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/prefixproxy/prefixproxy/internal/devetcd/devetcdtest"
)

// bluePool starts an etcd for the pool blue of four names. It returns a client of
// that, and the configuration file of a host.
func bluePool(t *testing.T) (client *clientv3.Client, file string) {
	t.Helper()
	server := devetcdtest.Start(t)
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{server.Endpoint()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client, writeFile(t, "config.yaml", `
membership: {pool: blue, names: [Denali, MtLogan, KingPeak, MtBona]}
etcd: {endpoints: [`+server.Endpoint()+`]}
forward: {statsd: {to: [stdout:]}, carbon: {to: [stdout:]}}
`, 0o600)
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
  "free": 4
}
`; got != want {
		t.Errorf("nobody: got %s\nwant %s", got, want)
	}

	for key, owner := range map[string]string{
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
	if got, want := members(), `NAME      OWNER     SINCE
Denali    foo-3le9  2026-11-22T22:26:57Z
KingPeak  foo-ns31  -
2 held, 2 free in pool blue
`; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got, want := members("--json"), `{
  "pool": "blue",
  "members": [
    {
      "name": "Denali",
      "owner": "foo-3le9",
      "since": "2026-11-22T22:26:57.123Z"
    },
    {
      "name": "KingPeak",
      "owner": "foo-ns31",
      "since": null
    }
  ],
  "free": 2
}
`; got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}
