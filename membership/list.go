package membership

import (
	"cmp"
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

// readNames returns what stands at the names of a pool, by name: keys that could
// be names, and values that could be owners.
func readNames(ctx context.Context, c *Client, pool string) (map[string]*mvccpb.KeyValue, error) {
	keys := make(map[string]*mvccpb.KeyValue)
	err := readAll(ctx, c, namesKey(pool), func(kv *mvccpb.KeyValue) {
		if name := strings.TrimPrefix(string(kv.Key), namesKey(pool)); isName(name) {
			keys[name] = kv
		}
	})
	if err != nil {
		return nil, fmt.Errorf("read who holds the names of pool %s: %w", pool, err)
	}
	return keys, nil
}

// keysPerRead bounds one answer of etcd, as long as the values are those of this
// program.
const keysPerRead = 1000

// readAll calls each for all that stands at keys with prefix, in their order, by
// the thousand; values that are too long to be ours are left out.
func readAll(ctx context.Context, c *Client, prefix string, each func(*mvccpb.KeyValue)) error {
	from, end := prefix, clientv3.GetPrefixRangeEnd(prefix)
	for {
		resp, err := c.get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(keysPerRead))
		tooLong := isTooLong(err)
		if tooLong {
			resp, err = c.get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(keysPerRead/10), clientv3.WithKeysOnly())
		}
		if err != nil {
			return err
		}
		kvs := resp.Kvs
		if tooLong {
			if kvs, err = readShort(ctx, c.Client, kvs); err != nil {
				return err
			}
		}
		for _, kv := range kvs {
			if len(kv.Value) <= maxRecordBytes {
				each(kv)
			}
		}
		if !resp.More || len(resp.Kvs) == 0 {
			return nil
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

// readSince fills Since in from the last record of each name, if it tells of the
// claim that stands at the name.
func readSince(ctx context.Context, c *Client, pool string, held []Held, keys map[string]*mvccpb.KeyValue) error {
	gets := make([]clientv3.Op, len(held))
	for i, h := range held {
		gets[i] = clientv3.OpGet(tenuresKey(pool)+h.Name+"/", clientv3.WithLastCreate()...)
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
			if lasts(t, keys[held[i].Name]) && !t.inFuture(time.Now()) {
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

// readPast returns the tenures that wanted says, of all whose key begins with
// prefix below the pool's tenures, the one claimed last first; and what stands at
// the pool's names. Tenures of the future are left out, but for one that lasts:
// since when is not known then.
func readPast(ctx context.Context, c *Client, pool, prefix string, wanted func(Tenure) bool) (keys map[string]*mvccpb.KeyValue, past []Tenure, err error) {
	keys, err = readNames(ctx, c, pool)
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	var ofName []Tenure
	take := func() { // all of a name are read
		slices.SortFunc(ofName, func(a, b Tenure) int { return cmp.Compare(a.created, b.created) })
		dated := slices.DeleteFunc(ofName, func(t Tenure) bool { return t.inFuture(now) && !lasts(t, keys[t.Name]) })
		for _, t := range closeByNext(dated) {
			if t.Lasts = lasts(t, keys[t.Name]); t.inFuture(now) {
				t.From = time.Time{}
			}
			if wanted(t) {
				past = append(past, t)
			}
		}
		ofName = ofName[:0]
	}
	err = readAll(ctx, c, tenuresKey(pool)+prefix, func(kv *mvccpb.KeyValue) { // in the order of names
		t, ok := readTenure(kv, tenuresKey(pool))
		if !ok {
			return
		}
		if len(ofName) > 0 && ofName[0].Name != t.Name {
			take()
		}
		ofName = append(ofName, t)
	})
	if err != nil {
		return nil, nil, fmt.Errorf("read the tenures of pool %s: %w", pool, err)
	}
	take()
	slices.SortStableFunc(past, func(a, b Tenure) int { return cmp.Compare(b.created, a.created) })
	return keys, past, nil
}
