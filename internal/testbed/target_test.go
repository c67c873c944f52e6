package testbed

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// A stay is the seconds, counted from some moment, in which a host had a name, as its
// record tells it and as Graphite got its lines.
type stay struct {
	name, owner string
	from, to    float64 // by the record; 0: none
	first, last int64   // seconds of the lines that went under the name
}

// What `target` prints for a host draws that host's values, point by point, over a
// free name, an overlap, a crash, a gap without any name, and a return.
func TestTarget(t *testing.T) {
	t.Parallel()
	stays := []stay{
		{"Denali", "web3", 1, 40.2, 1, 40},
		{"MtLogan", "web5", 1, 88.4, 1, 88},
		{"Denali", "web17", 45.3, 110.7, 46, 110},  // its lines of 41 to 45 are not there: within 5 s of web3's end
		{"Denali", "web3", 111.2, 170.9, 111, 170}, // at once
		{"MtLogan", "web17", 118.5, 169.9, 111, 169},
		{"KingPeak", "web17", 168.2, 0, 170, 185}, // overlaps by its clock, and crashed
		{"KingPeak", "web9", 200.5, 0, 201, 400},
		{"Denali", "web17", 230.1, 0, 230, 400}, // free since web3: and web17 is new there
	}
	carbon := NewCarbonCache(t)
	carbon.write(t, "storage-schemas.conf", "[ten]\npattern = [.]ten[.]\nretentions = 10s:1h\n[all]\npattern = .*\nretentions = 1s:1h\n")
	carbon.Start(t)
	graphite := StartGraphiteWeb(t, carbon)
	start := (time.Now().Unix() - 600) / 10 * 10

	// 1. Every second of every host, under servers.<name>; each series has another value.
	var lines strings.Builder
	series := []string{"cpu.user", "cpu.system", "ten.load"}
	for _, s := range stays {
		for at := s.first; at <= s.last; at++ {
			for i, path := range series {
				if path != "ten.load" || at%10 == 0 {
					fmt.Fprintf(&lines, "servers.%s.%s %d %d\n", s.name, path, valueOf(s.owner, i, at), start+at)
				}
			}
		}
	}
	send(t, "tcp", carbon.Addr, lines.String())
	carbon.AwaitValue(t, start+400, float64(valueOf("web17", 2, 400)), "servers", "Denali", "ten", "load")
	carbon.AwaitValue(t, start+400, float64(valueOf("web9", 0, 400)), "servers", "KingPeak", "cpu", "user")

	// 2. The records, in the order in which they were made.
	config := targetPool(t, start, stays)

	// 3. What is drawn.
	at := func(offset int64) *float64 { // of web17's first series
		for _, s := range stays {
			if s.owner == "web17" && s.first <= offset && offset <= s.last && !(s.name == "KingPeak" && offset < 170) {
				v := float64(offset)
				return &v
			}
		}
		return nil
	}
	for _, tt := range []struct {
		expr string
		args []string
		step int64
		want map[string]float64 // by series: what is added to the first one's value
	}{
		{"host.cpu.user", nil, 1, map[string]float64{"servers.web17.cpu.user": 0}},
		{"host.cpu.*", nil, 1, map[string]float64{"servers.web17.cpu.user": 0, "servers.web17.cpu.system": 1000}},
		{"host.cpu.{user,system}", nil, 1, map[string]float64{"servers.web17.cpu.user": 0, "servers.web17.cpu.system": 1000}},
		{"alias(offset(host.cpu.user, 7), \"a, b (c\")", nil, 1, map[string]float64{"a, b (c": 7}},
		{"aliasByNode(host.cpu.user,1,3)", nil, 1, map[string]float64{"web17.user": 0}},
		{"host.ten.load", []string{"--step", "10s"}, 10, map[string]float64{"servers.web17.ten.load": 2000}},
	} {
		target := runTarget(t, config, append([]string{"web17", tt.expr}, tt.args...)...)
		got := graphite.Render(t, target, start, start+400)
		if len(got) != len(tt.want) {
			t.Errorf("%s: %d series, want %d: %s", tt.expr, len(got), len(tt.want), target)
		}
		for _, s := range got {
			more, known := tt.want[s.Target]
			if !known || int64(len(s.Points)) != 400/tt.step {
				t.Errorf("%s: series %q with %d points", tt.expr, s.Target, len(s.Points))
				continue
			}
			for _, p := range s.Points {
				want := at(p.Time - start)
				if want != nil {
					*want += more
				}
				if show(p.Value) != show(want) {
					t.Errorf("%s: %s at %d: got %s, want %s", tt.expr, s.Target, p.Time-start, show(p.Value), show(want))
				}
			}
		}
	}

	// 4. Only what --until leaves.
	target := runTarget(t, config, "web17", "host.cpu.user", "--from", fmt.Sprint(start+100), "--until", fmt.Sprint(start+120))
	if strings.Contains(target, "KingPeak") || strings.Count(target, "timeSlice") != 2 {
		t.Errorf("from 100 until 120: got %s, want Denali and MtLogan", target)
	}
}

func valueOf(owner string, series int, at int64) int64 {
	if owner != "web17" {
		return -1
	}
	return int64(series)*1000 + at
}

func show(v *float64) string {
	if v == nil {
		return "nothing"
	}
	return fmt.Sprint(*v)
}

// targetPool writes the records of stays into an etcd, and returns the configuration
// file of a host.
func targetPool(t *testing.T, start int64, stays []stay) (config string) {
	t.Helper()
	endpoint := embeddedEtcd(t)
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for i, s := range stays {
		from := time.UnixMilli(start*1000 + int64(math.Round(s.from*1000))).UTC()
		record := fmt.Sprintf(`{"owner":%q,"lease":"%x","from":%q`, s.owner, i+1, from.Format("2006-01-02T15:04:05.000Z"))
		if s.to != 0 {
			to := time.UnixMilli(start*1000 + int64(math.Round(s.to*1000))).UTC()
			record += fmt.Sprintf(`,"to":%q,"ended":"release"`, to.Format("2006-01-02T15:04:05.000Z"))
		}
		key := fmt.Sprintf("/prefixproxy/default/tenures/%s/%013d-%x", s.name, from.UnixMilli(), i+1)
		if _, err := client.Put(t.Context(), key, record+"}"); err != nil {
			t.Fatal(err)
		}
	}
	config = filepath.Join(t.TempDir(), "config.yaml")
	text := "etcd: {endpoints: [" + endpoint + "]}\nrewrite: {to: \"servers.{name}\"}\nforward: {statsd: {to: [stdout:]}, carbon: {to: [stdout:]}}\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return config
}

func runTarget(t *testing.T, config string, args ...string) string {
	t.Helper()
	cmd := Program(t, nil, append([]string{"target", "--config", config}, args...)...)
	var errors bytes.Buffer
	cmd.Stderr = &errors
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("target %q: %v\n%s", args, err, &errors)
	}
	return strings.TrimSuffix(string(out), "\n")
}
