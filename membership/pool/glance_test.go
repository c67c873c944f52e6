package pool

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/prefixproxy/prefixproxy/internal/devetcd/devetcdtest"
)

// A pool at a glance is one request, and what Look and TenuresOf say.
func TestLookAt(t *testing.T) {
	t.Parallel()
	var requests []string
	count := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		requests = append(requests, method)
		return invoke(ctx, method, req, reply, cc, opts...)
	}
	c := newClient(t, devetcdtest.Start(t), count)
	now := time.Now()
	put := func(key, value string, opts ...clientv3.OpOption) {
		t.Helper()
		if _, err := c.Put(t.Context(), keys(testPool)+key, value, opts...); err != nil {
			t.Fatal(err)
		}
	}
	id := devetcdtest.NewLease(t, c.Client)
	for i := range 250 { // more than one answer
		at := now.Add(time.Duration(i-300) * time.Minute)
		tenure := Tenure{Name: "Denali", Owner: fmt.Sprint("web", i), Lease: clientv3.LeaseID(i + 1), From: at, ID: RecordID(at, clientv3.LeaseID(i+1))}
		put("tenures/Denali/"+tenure.ID, tenure.Value())
	}
	put("names/MtLogan", "web17", clientv3.WithLease(id))
	put("names/Everest", "not of the list")
	put("names/no name", "x")
	put("waiting/"+LeaseHex(devetcdtest.NewLease(t, c.Client)), "of no lease")
	waits := devetcdtest.NewLease(t, c.Client)
	put("waiting/"+LeaseHex(waits), "web99", clientv3.WithLease(waits))

	requests = nil
	g, err := LookAt(t.Context(), c, testPool, []AskPast{
		{Name: "Denali"}, {Name: "Denali", From: now.Add(-60 * time.Minute)}, {Name: "Denali", Before: now.Add(-100 * time.Minute), Last: true}, {Name: "MtLogan"},
	}...)
	if err != nil || len(requests) != 1 {
		t.Fatalf("%v after %d requests: %v", err, len(requests), requests)
	}
	if got := fmt.Sprint(len(g.Held), len(g.Waiting)); got != "2 1" || g.Held["MtLogan"].Lease != id || g.Held["Everest"].Lease != 0 || g.Waiting[0].Owner != "web99" {
		t.Errorf("got %+v", g)
	}
	if p := g.Past[0]; len(p.Tenures) != tenuresPerAsk || !p.More || p.Tenures[0].Owner != "web0" {
		t.Errorf("all: %d tenures, more %v", len(p.Tenures), p.More)
	}
	if p := g.Past[1]; len(p.Tenures) != 10 || p.More || p.Tenures[0].Owner != "web240" {
		t.Errorf("of the last hour: %d tenures, more %v", len(p.Tenures), p.More)
	}
	if p := g.Past[2]; len(p.Tenures) != 1 || p.Tenures[0].Owner != "web199" {
		t.Errorf("the last before that: %+v", p.Tenures)
	}
	put("tenures/KingPeak-2/x", "no record")
	put("tenures/Old/x", strings.Repeat("x", 1<<20))
	g, err = LookAt(t.Context(), c, testPool, []AskPast{
		{}, {Until: "Denali"}, {After: "Denali", Until: "KingPeak"}, {After: "Denali", Until: "MtLogan"}, {After: "KingPeak-2"}, {After: "Old"},
	}...)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"Denali", "", "KingPeak-2", "KingPeak-2", "Old", ""} {
		if got := g.Past[i].Name; got != want {
			t.Errorf("names that the list may lack, %d: got %q, want %q", i, got, want)
		}
	}
	seen := 0
	for ask := (AskPast{Name: "Denali"}); ; {
		g, err := LookAt(t.Context(), c, testPool, ask)
		if err != nil {
			t.Fatal(err)
		}
		if seen += len(g.Past[0].Tenures); !g.Past[0].More {
			break
		}
		ask.From = g.Past[0].Next
	}
	if seen != 250 {
		t.Errorf("page by page: %d tenures, want 250", seen)
	}
}

// Long values cost the glance nothing but what they are: an answer is never longer than
// the client takes, and what is ours is found among them.
func TestLookAtLongValues(t *testing.T) {
	t.Parallel()
	c := newClient(t, devetcdtest.Start(t))
	long := strings.Repeat("x", 1<<20)
	at := time.Now().Add(-time.Hour)
	tenure := Tenure{Name: "Denali", Owner: "web17", Lease: 7, From: at, ID: RecordID(at, 7)}
	for key, value := range map[string]string{
		"names/Denali": "web17", "tenures/Denali/" + tenure.ID: tenure.Value(),
		"names/a": long, "names/b": long, "names/c": long, "names/d": long, "names/MtLogan": long,
		"tenures/Denali/0000000000001-1": long, "tenures/Denali/0000000000002-1": long, "tenures/Denali/0000000000003-1": long, "tenures/Denali/0000000000004-1": long,
	} {
		if _, err := c.Put(t.Context(), keys(testPool)+key, value); err != nil {
			t.Fatal(err)
		}
	}
	g, err := LookAt(t.Context(), c, testPool, AskPast{Name: "Denali"}, AskPast{Name: "MtLogan"})
	if err != nil || len(g.Held) != 1 || g.Held["Denali"].Owner != "web17" || len(g.Past) != 2 || len(g.Past[0].Tenures) != 1 {
		t.Errorf("%v: got %+v", err, g)
	}
}
