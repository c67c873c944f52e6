package pool

import (
	"cmp"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// A Tenure is one claim of a name, from its start to its end, as its record in etcd says. The times
// are by its holder's wall clock.
type Tenure struct {
	Name  string
	Owner string
	Lease clientv3.LeaseID // under which it was held last
	From  time.Time        // when it was claimed
	To    time.Time        // zero: it lasts, or a crash left no end
	Ended string           // release, or a Loss; "" where To is zero
	Lasts bool             // it is the one that holds the name, as of the reading

	TTL      time.Duration // of the lease; 0: not known
	Term     uint64        // of etcd in which the lease was granted; 0: not known
	ID       string        // the last part of the record's key
	Created  int64         // the revision at which the record was written first: the order in which etcd got them
	Revision int64         // and last
}

// Why a tenure ended: by choice, or with its lease. The other reasons are the membership.Losses.
const (
	Released = "release"
	Expired  = "expired"
)

const (
	maxRecordBytes = 4096 // an owner is 255 at most
	maxMilli       = 1e13 - 1
)

// TenuresKept is for how long the records of a name are kept.
const TenuresKept = 90 * 24 * time.Hour

// ClocksApart is how far the clocks of two hosts may differ before both may write one name for
// one moment.
const ClocksApart = 5 * time.Second

// FirstSecond returns the first whole Unix second of a tenure that begins at from. The second in which a
// name changes hands is its former holder's.
func FirstSecond(from time.Time) int64 { return from.Add(time.Second - time.Nanosecond).Unix() }

// A record is a Tenure as it lies in etcd:
//
//	/prefixproxy/default/tenures/Denali/1795386417123-694d8a1c5e0f3a2b
//	                             name   from          lease that claimed it
//	{"owner":"foo-ns31","lease":"694d8a1c5e0f3a2b","ttl":15,"term":7,
//	 "from":"2026-11-23T00:26:57.123Z","to":"2026-11-23T07:00:01.000Z","ended":"release"}
//
// The lease is the one of the key until a restart takes the claim over; its TTL is in seconds, and
// its term is the one in which etcd granted it. A recorded end says that the tenure's holder no
// longer uses the name.
type record struct {
	Owner string `json:"owner"`
	Lease string `json:"lease"`
	TTL   int64  `json:"ttl,omitempty"`
	Term  uint64 `json:"term,omitempty"`
	From  string `json:"from"`
	To    string `json:"to,omitempty"`
	Ended string `json:"ended,omitempty"`
}

// RecordTime is RFC 3339 in UTC with milliseconds.
const RecordTime = "2006-01-02T15:04:05.000Z"

// RecordID returns the last part of a record's key. Its order is the order of time.
func RecordID(from time.Time, lease clientv3.LeaseID) string {
	return fmt.Sprintf("%013d-%s", keyMilli(from), LeaseHex(lease))
}

// keyMilli returns t in Unix milliseconds, within 13 digits.
func keyMilli(t time.Time) int64 { return min(max(t.UnixMilli(), 0), maxMilli) }

// StartOf returns when the tenure of name with this record began; ok is false if id is not the ID of
// a record.
func StartOf(name, id string) (from time.Time, ok bool) {
	if !recordKeyForm.MatchString(name + "/" + id) {
		return time.Time{}, false
	}
	milli, err := strconv.ParseInt(id[:13], 10, 64)
	return time.UnixMilli(milli), err == nil
}

// LeaseHex returns a lease as keys and records have it.
func LeaseHex(lease clientv3.LeaseID) string { return strconv.FormatUint(uint64(lease), 16) }

// Key returns the key of the record of t.
func (t Tenure) Key(pool string) string { return TenuresKey(pool) + t.Name + "/" + t.ID }

// Value returns the record of t.
func (t Tenure) Value() string {
	r := record{
		Owner: t.Owner, Lease: LeaseHex(t.Lease), TTL: int64(t.TTL / time.Second), Term: t.Term,
		From: t.From.UTC().Format(RecordTime), Ended: t.Ended,
	}
	if !t.To.IsZero() {
		r.To = t.To.UTC().Format(RecordTime)
	}
	data, err := json.Marshal(r)
	if err != nil {
		panic("pool: marshal a tenure: " + err.Error()) // it is strings
	}
	return string(data)
}

var (
	recordKeyForm = regexp.MustCompile(`^([A-Za-z0-9_-]{1,64})/([0-9]{13}-([0-9a-f]{1,16}))$`)
	endedForm     = regexp.MustCompile(`^[a-z_]{0,32}$`)
)

// ReadTenure reads a record of a pool. Anybody may write there: what this program could not have
// written is not a record.
func ReadTenure(pool string, kv *mvccpb.KeyValue) (t Tenure, ok bool) {
	part := recordKeyForm.FindStringSubmatch(strings.TrimPrefix(string(kv.Key), TenuresKey(pool)))
	if part == nil || len(kv.Value) > maxRecordBytes {
		return Tenure{}, false
	}
	var r record
	if err := json.Unmarshal(kv.Value, &r); err != nil || !IsOwner(r.Owner) || !endedForm.MatchString(r.Ended) {
		return Tenure{}, false
	}
	lease, errLease := strconv.ParseUint(cmp.Or(r.Lease, part[3]), 16, 64)
	from, errFrom := time.Parse(time.RFC3339, r.From)
	if errLease != nil || errFrom != nil || strconv.FormatInt(keyMilli(from)+1e13, 10)[1:] != part[2][:13] {
		return Tenure{}, false
	}
	t = Tenure{
		Name: part[1], Owner: ShowOwner(r.Owner), Lease: clientv3.LeaseID(lease), From: from,
		TTL: time.Duration(min(max(r.TTL, 0), int64(MaxTTL/time.Second))) * time.Second, Term: r.Term,
		ID: part[2], Created: kv.CreateRevision, Revision: kv.ModRevision,
	}
	if r.To == "" {
		return t, r.Ended == ""
	}
	to, err := time.Parse(time.RFC3339, r.To)
	t.To, t.Ended = to, r.Ended
	return t, err == nil && !to.Before(from)
}

// ReadTenures reads the records of a pool among kvs, in the order in which etcd got them: the clocks of their
// writers may suggest another one.
func ReadTenures(pool string, kvs []*mvccpb.KeyValue) []Tenure {
	ts := make([]Tenure, 0, len(kvs))
	for _, kv := range kvs {
		if t, ok := ReadTenure(pool, kv); ok {
			ts = append(ts, t)
		}
	}
	slices.SortFunc(ts, func(a, b Tenure) int { return cmp.Compare(a.Created, b.Created) })
	return ts
}

// InFuture says whether t begins or ends later than now, by more than clocks may differ: some clock
// is wrong, and nobody knows whose the seconds are.
func (t Tenure) InFuture(now time.Time) bool {
	latest := now.Add(ClocksApart)
	return t.From.After(latest) || t.To.After(latest)
}

// Open says whether the record has no end.
func (t Tenure) Open() bool { return t.To.IsZero() }

// End returns t with its end. Even if the clock was set back, no tenure ends before its start.
func (t Tenure) End(to time.Time, why string) Tenure {
	t.To, t.Ended = to, why
	if to.Before(t.From) {
		t.To = t.From
	}
	return t
}

// CloseByNext gives an end to those of one name's tenures, which are in order, that a crash left
// without one: the latest possible, the start of the next tenure. The last one stays as it is, and
// so does one that lasts.
func CloseByNext(ts []Tenure) []Tenure {
	closed := slices.Clone(ts)
	for i := range closed[:max(len(closed)-1, 0)] {
		if closed[i].Open() && !closed[i].Lasts {
			closed[i] = closed[i].End(closed[i+1].From, Expired)
		}
	}
	return closed
}
