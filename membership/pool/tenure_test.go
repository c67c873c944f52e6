package pool

import (
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

func TestReadTenure(t *testing.T) {
	const key = "Denali/1795386417123-694d8a1c5e0f3a2b"
	from := time.UnixMilli(1795386417123)
	good := Tenure{Name: "Denali", Owner: "foo-ns31", Lease: 0x694d8a1c5e0f3a2b, From: from}
	stamp := from.UTC().Format(RecordTime)
	ended := good.End(from.Add(time.Minute), Released)
	taken := good
	taken.Lease = 0x1f
	for _, test := range []struct {
		name, key, value string
		want             *Tenure
	}{
		{"lasting", key, good.Value(), &good},
		{"ended", key, ended.Value(), &ended},
		{"taken over", key, taken.Value(), &taken},
		{"without a lease", key, `{"owner":"foo-ns31","from":"` + stamp + `"}`, &good},
		{"no JSON", key, `Denali`, nil},
		{"an owner that would clear the screen", key, `{"owner":"\u001b[2J","from":"` + stamp + `"}`, nil},
		{"an end before the start", key, `{"from":"` + stamp + `","to":"2020-01-01T00:00:00.000Z"}`, nil},
		{"a reason without an end", key, `{"from":"` + stamp + `","ended":"release"}`, nil},
		{"a reason that is no word", key, `{"from":"` + stamp + `","to":"` + stamp + `","ended":"<b>"}`, nil},
		{"another start than its key", key, `{"from":"2020-01-01T00:00:00.000Z"}`, nil},
		{"no time", key, `{"from":"today"}`, nil},
		{"a lease that is none", key, `{"from":"` + stamp + `","lease":"xyz"}`, nil},
		{"a name that is none", "De.nali/1795386417123-1", good.Value(), nil},
		{"a key without a start", "Denali", good.Value(), nil},
		{"a key with more", key + "/x", good.Value(), nil},
		{"too long", key, good.Value() + strings.Repeat(" ", maxRecordBytes), nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, ok := ReadTenure(testPool, &mvccpb.KeyValue{Key: []byte(TenuresKey(testPool) + test.key), Value: []byte(test.value)})
			if ok != (test.want != nil) {
				t.Fatalf("got %+v, %v; want it read: %v", got, ok, test.want != nil)
			}
			if got.ID = ""; ok && (!got.From.Equal(test.want.From) || !got.To.Equal(test.want.To) || got.Value() != test.want.Value() || got.Name != test.want.Name) {
				t.Errorf("got %+v, want %+v", got, *test.want)
			}
		})
	}
}

// What is read from etcd ends no process, and what is taken for a record could be
// written by this program.
func FuzzReadTenure(f *testing.F) {
	f.Add("Denali/1795386417123-694d8a1c5e0f3a2b", `{"owner":"foo","lease":"694d8a1c5e0f3a2b","ttl":15,"term":7,"from":"2026-11-23T00:26:57.123Z","to":"2026-11-23T07:00:01.000Z","ended":"release"}`)
	f.Add("Denali.x 1 2\n/1-1", "")
	f.Fuzz(func(t *testing.T, key, value string) {
		got, ok := ReadTenure(testPool, &mvccpb.KeyValue{Key: []byte(TenuresKey(testPool) + key), Value: []byte(value)})
		if !ok {
			return
		}
		if !IsName(got.Name) || !IsOwner(got.Owner) || len(value) > maxRecordBytes || !got.To.IsZero() && got.To.Before(got.From) {
			t.Errorf("%q = %q is read as %+v", key, value, got)
		}
		if again, ok := ReadTenure(testPool, &mvccpb.KeyValue{Key: []byte(TenuresKey(testPool) + got.Name + "/" + got.ID), Value: []byte(got.Value())}); !ok || again.Value() != got.Value() {
			t.Errorf("%q = %q is read as %+v, and what that is written as %v as %+v", key, value, got, ok, again)
		}
	})
}

func TestShowOwner(t *testing.T) {
	for owner, want := range map[string]string{
		"homer, sector 7G": "homer, sector 7G",
		"a\x1b[31m":        `"a\x1b[31m"`,
		"Hömer":            `"H\u00f6mer"`,
		"":                 `""`,
		"  ":               `"  "`,
	} {
		if got := ShowOwner(owner); got != want {
			t.Errorf("%q: got %s, want %s", owner, got, want)
		}
	}
	if got := len(ShowOwner(strings.Repeat("o", 1000))); got != MaxOwnerBytes+2 {
		t.Errorf("a long owner is shown in %d bytes, want %d", got, MaxOwnerBytes+2)
	}
}
