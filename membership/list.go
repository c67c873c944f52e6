package membership

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// What people ask a pool: who is there, who was, and where one has been.

// A Held is a name that somebody holds.
type Held struct {
	Name  string
	Owner string    // as it may be shown to people: quoted and cut if it is no owner
	Since time.Time // when it was claimed; zero if no record tells
}

// List returns who holds the names of a pool, in the order of names and as of
// one moment. What stands in etcd beside these names is left out. Two requests,
// and one more for every 120 names that are held.
func List(ctx context.Context, c *Client, pool string, names []string) ([]Held, error) {
	keys, err := readNames(ctx, c, pool)
	if err != nil {
		return nil, err
	}
	held := make([]Held, 0, len(keys))
	for _, name := range names {
		if kv, ok := keys[name]; ok {
			held = append(held, Held{Name: name, Owner: showOwner(string(kv.Value))})
		}
	}
	for turn := range slices.Chunk(held, namesPerTxn) {
		if err := readSince(ctx, c, pool, turn, keys); err != nil {
			return nil, err
		}
	}
	return held, nil
}

// readNames returns what stands at the names of a pool, by name.
func readNames(ctx context.Context, c *Client, pool string) (map[string]*mvccpb.KeyValue, error) {
	resp, err := c.get(ctx, namesKey(pool), clientv3.WithPrefix())
	if err != nil {
		return nil, fmt.Errorf("read who holds the names of pool %s: %w", pool, err)
	}
	keys := make(map[string]*mvccpb.KeyValue, len(resp.Kvs))
	for _, kv := range resp.Kvs {
		keys[strings.TrimPrefix(string(kv.Key), namesKey(pool))] = kv
	}
	return keys, nil
}

// readSince fills Since in from the last record of each name, if it tells of the
// claim that stands at the name.
func readSince(ctx context.Context, c *Client, pool string, held []Held, keys map[string]*mvccpb.KeyValue) error {
	gets := make([]clientv3.Op, len(held))
	for i, h := range held {
		gets[i] = clientv3.OpGet(tenuresKey(pool)+h.Name+"/", clientv3.WithLastKey()...)
	}
	var resp *clientv3.TxnResponse
	err := c.try(ctx, func(ctx context.Context) (err error) {
		resp, err = c.Txn(ctx).Then(gets...).Commit()
		return err
	})
	if err != nil {
		return fmt.Errorf("read since when the names of pool %s are held: %w", pool, err)
	}
	for i, r := range resp.Responses {
		for _, t := range readTenures(r.GetResponseRange().Kvs, tenuresKey(pool)) {
			if lasts(t, keys[held[i].Name]) {
				held[i].Since = t.From
			}
		}
	}
	return nil
}

// lasts says whether t is the tenure of what stands at its name, which is nil
// when the name is free.
func lasts(t Tenure, name *mvccpb.KeyValue) bool {
	return name != nil && t.open() && clientv3.LeaseID(name.Lease) == t.Lease
}

// TenuresOf returns who holds and held name, the latest first. A tenure that a
// crash left without an end ends at the next one's start at the latest, and is
// shown so. Who holds the name without a record comes first, without times.
func TenuresOf(ctx context.Context, c *Client, pool, name string) ([]Tenure, error) {
	keys, past, err := readPast(ctx, c, pool, name+"/", func(Tenure) bool { return true })
	if err != nil {
		return nil, err
	}
	if kv, held := keys[name]; held && !slices.ContainsFunc(past, func(t Tenure) bool { return t.Lasts }) {
		unrecorded := Tenure{Name: name, Owner: showOwner(string(kv.Value)), Lease: clientv3.LeaseID(kv.Lease), Lasts: true}
		past = slices.Insert(past, 0, unrecorded)
	}
	return past, nil
}

// TenuresBy returns which names owner holds and held, the latest first. It
// reads all records of the pool, by the thousand.
func TenuresBy(ctx context.Context, c *Client, pool, owner string) ([]Tenure, error) {
	_, past, err := readPast(ctx, c, pool, "", func(t Tenure) bool { return t.Owner == owner })
	return past, err
}

// recordsPerRead bounds one answer of etcd.
const recordsPerRead = 1000

// readPast returns the tenures that wanted says, of all whose key begins with
// prefix below the pool's tenures, and what stands at the pool's names.
func readPast(ctx context.Context, c *Client, pool, prefix string, wanted func(Tenure) bool) (keys map[string]*mvccpb.KeyValue, past []Tenure, err error) {
	keys, err = readNames(ctx, c, pool)
	if err != nil {
		return nil, nil, err
	}
	var ofName []Tenure
	take := func() { // all of a name are read
		for _, t := range closeByNext(ofName) {
			if t.Lasts = lasts(t, keys[t.Name]); wanted(t) {
				past = append(past, t)
			}
		}
		ofName = ofName[:0]
	}
	from := tenuresKey(pool) + prefix
	end := clientv3.GetPrefixRangeEnd(from)
	for more := true; more; {
		resp, err := c.get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(recordsPerRead))
		if err != nil {
			return nil, nil, fmt.Errorf("read the tenures of pool %s: %w", pool, err)
		}
		for _, kv := range resp.Kvs { // in the order of names, and then of time
			t, ok := readTenure(kv, tenuresKey(pool))
			if !ok {
				continue
			}
			if len(ofName) > 0 && ofName[0].Name != t.Name {
				take()
			}
			ofName = append(ofName, t)
		}
		if more = resp.More && len(resp.Kvs) > 0; more {
			from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
		}
	}
	take()
	slices.SortStableFunc(past, func(a, b Tenure) int { return b.From.Compare(a.From) })
	return keys, past, nil
}
