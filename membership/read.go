package membership

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// How much is read of etcd at a time, whatever lies there.

// readNames returns what stands at the names of a pool, by name: keys that could
// be names, and values that could be owners.
func readNames(ctx context.Context, c *Client, pool string) (map[string]*mvccpb.KeyValue, error) {
	keys := make(map[string]*mvccpb.KeyValue)
	err := readAll(ctx, c, under(namesKey(pool)), func(kv *mvccpb.KeyValue) {
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

// A keyRange is the keys from its first to before its end.
type keyRange struct{ from, end string }

// under returns the range of the keys with a prefix.
func under(prefix string) keyRange {
	return keyRange{prefix, clientv3.GetPrefixRangeEnd(prefix)}
}

// get is the operation that reads it.
func (r keyRange) get(opts ...clientv3.OpOption) clientv3.Op {
	return clientv3.OpGet(r.from, append(opts, clientv3.WithRange(r.end))...)
}

// readAll calls each for all that stands in r, in the order of keys, by the
// thousand; values that are too long to be ours are left out.
func readAll(ctx context.Context, c *Client, r keyRange, each func(*mvccpb.KeyValue)) error {
	for {
		resp, err := c.get(ctx, r.from, clientv3.WithRange(r.end), clientv3.WithLimit(keysPerRead))
		tooLong := isTooLong(err)
		if tooLong {
			resp, err = c.get(ctx, r.from, clientv3.WithRange(r.end), clientv3.WithLimit(keysPerRead/10), clientv3.WithKeysOnly())
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
		r = r.after(resp.Kvs)
	}
}

// after returns what comes after kvs, which were read from r.
func (r keyRange) after(kvs []*mvccpb.KeyValue) keyRange {
	return keyRange{string(kvs[len(kvs)-1].Key) + "\x00", r.end}
}

// perName is how many records of a name are read together with those of others, and
// namesPerRead of how many.
const (
	perName      = 250
	namesPerRead = namesPerTxn / 3
)

// readRecords calls each for the records of a pool, in the order of keys: all if
// since is zero, and otherwise of each name that is held the last one before since
// and the first perName from then on. etcd counts what is left of a range at each
// read of some of it: one range for the many records of a big pool would cost it
// their square. So they are read by the names that are held, each with the names up to
// the next one.
func readRecords(ctx context.Context, c *Client, pool string, held iter.Seq[string], since time.Time, each func(*mvccpb.KeyValue)) error {
	all := under(tenuresKey(pool))
	var names []keyRange
	for name := range held {
		names = append(names, under(all.from+name+"/"))
	}
	slices.SortFunc(names, func(a, b keyRange) int { return strings.Compare(a.from, b.from) })
	for len(names) > 0 {
		if err := readAll(ctx, c, keyRange{all.from, names[0].from}, each); err != nil {
			return err
		}
		turn := names[:min(len(names), namesPerRead)]
		names = names[len(turn):]
		all.from = turn[len(turn)-1].end
		if err := readTurn(ctx, c, turn, since, each); err != nil {
			return err
		}
	}
	return readAll(ctx, c, all, each)
}

// readTurn is readRecords of some names, and of those between them.
func readTurn(ctx context.Context, c *Client, names []keyRange, since time.Time, each func(*mvccpb.KeyValue)) error {
	var gets []clientv3.Op
	for i, r := range names {
		before, between := keyRange{r.from, r.from}, keyRange{r.end, r.end}
		if !since.IsZero() {
			before.end = fmt.Sprintf("%s%013d", r.from, keyMilli(since))
		}
		if i+1 < len(names) {
			between.end = names[i+1].from
		}
		gets = append(gets,
			before.get(clientv3.WithLimit(1), clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend)),
			keyRange{before.end, r.end}.get(clientv3.WithLimit(perName)),
			between.get(clientv3.WithLimit(perName)))
	}
	var resp *clientv3.TxnResponse
	err := c.try(ctx, func(ctx context.Context) (err error) {
		resp, err = c.Txn(ctx).Then(gets...).Commit()
		return err
	})
	if isTooLong(err) { // with what is no record
		return readAll(ctx, c, keyRange{names[0].from, names[len(names)-1].end}, each)
	}
	if err != nil {
		return err
	}
	for i, answer := range resp.Responses {
		kvs := answer.GetResponseRange().Kvs
		for _, kv := range kvs {
			if len(kv.Value) <= maxRecordBytes {
				each(kv)
			}
		}
		if between := i%3 == 2; answer.GetResponseRange().More && (between || i%3 == 1 && since.IsZero()) {
			rest := names[i/3]
			if between {
				rest = keyRange{rest.end, names[i/3+1].from}
			}
			if err := readAll(ctx, c, rest.after(kvs), each); err != nil {
				return err
			}
		}
	}
	return nil
}

// readShort reads what stands at keys, but for values that are too long to be
// ours, by as many at once as an answer may hold.
func readShort(ctx context.Context, c *clientv3.Client, keys []*mvccpb.KeyValue) (kvs []*mvccpb.KeyValue, err error) {
	for turn := range slices.Chunk(keys, 64) {
		gets := make([]clientv3.Op, len(turn))
		for i, kv := range turn {
			gets[i] = clientv3.OpGet(string(kv.Key))
		}
		resp, err := c.Txn(ctx).Then(gets...).Commit()
		switch {
		case isTooLong(err) && len(turn) == 1:
			continue
		case isTooLong(err):
			for half := range slices.Chunk(turn, (len(turn)+1)/2) {
				some, err := readShort(ctx, c, half)
				if err != nil {
					return nil, err
				}
				kvs = append(kvs, some...)
			}
			continue
		case err != nil:
			return nil, err
		}
		for _, r := range resp.Responses {
			for _, kv := range r.GetResponseRange().Kvs {
				if len(kv.Value) <= maxRecordBytes {
					kvs = append(kvs, kv)
				}
			}
		}
	}
	return kvs, nil
}
