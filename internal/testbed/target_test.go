package testbed

import (
	"bytes"
	"fmt"
	"math"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
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
	carbon := newCarbonCache(t)
	carbon.write(t, "storage-schemas.conf", "[ten]\npattern = [.]ten[.]\nretentions = 10s:1h\n[all]\npattern = .*\nretentions = 1s:1h\n")
	carbon.Start(t)
	graphite := startGraphiteWeb(t, carbon)
	start := (time.Now().Unix() - 600) / 10 * 10

	// 1. Every second of every host, under servers.<name>; each series has another value.
	var lines strings.Builder
	series := []string{"cpu.user", "cpu.system", "ten.load", "req;dc=eu.west;v=1", "req;dc=us;v=1"}
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
	for _, s := range stays {
		for _, path := range series[3:] {
			if status := graphite.tagSeries(t, "servers."+s.name+"."+path); status != http.StatusOK {
				t.Fatalf("it is not tagged: %d", status)
			}
		}
	}

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
		step int64
		want map[string]float64 // by series: what is added to the first one's value
	}{
		{"host.cpu.user", 1, map[string]float64{"servers.web17.cpu.user": 0}},
		{"host.cpu.*", 1, map[string]float64{"servers.web17.cpu.user": 0, "servers.web17.cpu.system": 1000}},
		{"host.cpu.{user,system}", 1, map[string]float64{"servers.web17.cpu.user": 0, "servers.web17.cpu.system": 1000}},
		{"host.**.user", 1, map[string]float64{"servers.web17.cpu.user": 0}},
		{"host.cpu.**", 1, map[string]float64{"servers.web17.cpu.user": 0, "servers.web17.cpu.system": 1000}},
		{"host.[a-d]p?.us*r", 1, map[string]float64{"servers.web17.cpu.user": 0}},
		{"alias(offset(host.cpu.user, 7), \"a, b (c \\\"°C\")", 1, map[string]float64{"a, b (c \\\"°C": 7}},
		{"aliasByNode(host.cpu.user,1,3)", 1, map[string]float64{"web17.user": 0}},
		{"host.cpu.user|offset(1)|aliasByNode(1)", 1, map[string]float64{"web17": 1}},
		{"sumSeries(host.cpu.user,offset(scale(host.cpu.system,0),1e1))|alias('s')", 1, map[string]float64{"s": 10}},
		{"template(host.cpu.$x,x='user')", 1, map[string]float64{"servers.web17.cpu.user": 0}},
		{"movingMax(host.cpu.user,'1s')|alias('m')", 1, map[string]float64{"m": -1}}, // of the points before
		{"host.ten.load", 10, map[string]float64{"servers.web17.ten.load": 2000}},
		{"seriesByTag('name=host.req')", 1, map[string]float64{"servers.web17.req;dc=eu.west;v=1": 3000, "servers.web17.req;dc=us;v=1": 4000}},
		{"seriesByTag(\"name=~host\\..*\", 'dc=us')", 1, map[string]float64{"servers.web17.req;dc=us;v=1": 4000}},
		{"aliasByTags(seriesByTag('dc=~.*\\.west','name=host.req'),'dc',1)", 1, map[string]float64{"eu.west.web17": 3000}},
		{"host.req;dc=us;v=1", 1, map[string]float64{"servers.web17.req;dc=us;v=1": 4000}},
	} {
		target := runTarget(t, config, "web17", tt.expr, "--step", fmt.Sprint(tt.step, "s"))
		for begin := start; begin < start+tt.step; begin += 3 { // wherever in its step it begins
			got := graphite.Render(t, target, begin, begin+400)
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
					if strings.HasPrefix(tt.expr, "movingMax") {
						want = at(p.Time - start - 1)
					}
					if want != nil {
						*want += max(more, 0)
					}
					if show(p.Value) != show(want) {
						t.Errorf("%s: %s at %d: got %s, want %s", tt.expr, s.Target, p.Time-start, show(p.Value), show(want))
					}
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
		record := fmt.Sprintf(`{"owner":%q,"lease":"%x","from":%q`, s.owner, i+1, from.Format(recordForm))
		if s.to != 0 {
			to := time.UnixMilli(start*1000 + int64(math.Round(s.to*1000))).UTC()
			record += fmt.Sprintf(`,"to":%q,"ended":"release"`, to.Format(recordForm))
		}
		key := fmt.Sprintf("/prefixproxy/default/tenures/%s/%013d-%x", s.name, from.UnixMilli(), i+1)
		if _, err := client.Put(t.Context(), key, record+"}"); err != nil {
			t.Fatal(err)
		}
	}
	text := "etcd: {endpoints: [" + endpoint + "]}\nrewrite: {to: \"servers.{name}\"}\nforward: {statsd: {to: [stdout:]}, carbon: {to: [stdout:]}}\n"
	return writeFile(t, text, t.TempDir(), "config.yaml")
}

func runTarget(t *testing.T, config string, args ...string) string {
	t.Helper()
	cmd := program(t, nil, append([]string{"target", "--config", config}, args...)...)
	var errors bytes.Buffer
	cmd.Stderr = &errors
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("target %q: %v\n%s", args, err, &errors)
	}
	return strings.TrimSuffix(string(out), "\n")
}

// A real host that is Denali, and MtLogan when somebody has asked it to let go, and another
// one that is MtLogan before and Denali after it: what is drawn of each is what it sent,
// second by second, also of those in which it had no name.
func TestTargetOfRealHosts(t *testing.T) {
	t.Parallel()
	carbon := newCarbonCache(t)
	carbon.Start(t)
	graphite := startGraphiteWeb(t, carbon)
	etcd := embeddedEtcd(t)
	vars := func(owner string) []string {
		return []string{"ETCD=" + etcd, "CARBON=" + carbon.Addr, "OWNER=" + owner}
	}
	web17 := startDaemon(t, carbonConfig, vars("web17")...)
	web17.AwaitName(t, "Denali")
	web3 := startDaemon(t, carbonConfig, vars("web3")...)
	web3.AwaitName(t, "MtLogan")

	hosts := []*daemon{web17, web3}
	sending := startSeconds(t, hosts)
	// A line of a second without a name goes under the next one only where that has been
	// free for as long as clocks may differ: so long each freed name rests.
	const rest = 7
	named := func(seconds int64, names ...string) {
		t.Helper()
		eventually(t, fmt.Sprint("names ", names), func() error {
			for i, want := range names {
				s, err := hosts[i].Status()
				if err != nil || s.State != "held" || want != "" && *s.Name != want {
					return fmt.Errorf("host %d: state %s, %v", i, s.State, err)
				}
			}
			return nil
		})
		sending.await(t, seconds)
	}
	config := filepath.Join(web17.Dir, "config.yaml")
	ask := func(name string) {
		t.Helper()
		if out, err := program(t, append(vars("x"), "DIR="+web17.Dir), "release", "--config", config, name).CombinedOutput(); err != nil {
			t.Fatalf("release %s: %v\n%s", name, err, out)
		}
	}
	named(2, "Denali", "MtLogan")
	ask("MtLogan")
	named(rest, "Denali", "") // the third name
	ask("Denali")
	named(rest, "MtLogan", "")
	status, err := web3.Status()
	if err != nil {
		t.Fatal(err)
	}
	ask(*status.Name)
	named(2, "MtLogan", "Denali")
	begun, last := sending.stop()

	for i, owner := range []string{"web17", "web3"} {
		cmd := program(t, append(vars("x"), "DIR="+web17.Dir), "target", "--config", config, owner, "host.load")
		target, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "what is drawn of "+owner, func() error {
			drawn := graphite.Render(t, strings.TrimSpace(string(target)), begun-1, last)
			if len(drawn) != 1 {
				return fmt.Errorf("%d series of %s", len(drawn), target)
			}
			for _, p := range drawn[0].Points {
				want := float64(p.Time - begun + int64(i)*1000)
				if p.Value == nil || *p.Value != want {
					return fmt.Errorf("at second %d: got %s, want %v: %s", p.Time-begun, show(p.Value), want, target)
				}
			}
			if got := int64(len(drawn[0].Points)); got != last-begun+1 {
				return fmt.Errorf("%d points, want %d", got, last-begun+1)
			}
			return nil
		})
	}
}

// seconds are lines that hosts are sent, one each second.
type seconds struct {
	mu          sync.Mutex
	begun, last int64
	end         chan struct{}
	ended       sync.WaitGroup
}

// startSeconds begins to send hosts lines: the value is the second, from 0, and a thousand
// more for each host.
func startSeconds(t *testing.T, hosts []*daemon) *seconds {
	s := &seconds{begun: time.Now().Unix() + 1, end: make(chan struct{})}
	tick := time.NewTicker(50 * time.Millisecond)
	t.Cleanup(tick.Stop)
	s.ended.Go(func() {
		for {
			select {
			case now := <-tick.C:
				s.send(t, hosts, now.Unix())
			case <-s.end:
				return
			}
		}
	})
	return s
}

func (s *seconds) send(t *testing.T, hosts []*daemon, now int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.last = max(s.last, s.begun-1); s.last < now; s.last++ {
		for i, d := range hosts {
			send(t, "tcp", d.Address(t, "carbon", "tcp://127.0.0.1:"), fmt.Sprintf("host.load %d %d\n", s.last+1-s.begun+int64(i)*1000, s.last+1))
		}
	}
}

// await waits until so many more seconds are sent.
func (s *seconds) await(t *testing.T, more int64) {
	t.Helper()
	now := time.Now().Unix()
	eventually(t, "seconds", func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.last < now+more {
			return fmt.Errorf("at %d", s.last)
		}
		return nil
	})
}

// stop ends the sending and returns the first second and the last.
func (s *seconds) stop() (begun, last int64) {
	close(s.end)
	s.ended.Wait()
	return s.begun, s.last
}
