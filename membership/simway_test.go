package membership

import (
	"context"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/prefixproxy/prefixproxy/internal/retry"
	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
)

// A way is what lies between one process and etcd: three endpoints, and a
// network that loses, delays and doubles. It is the process' etcd client: its
// KV, its leases and its watches.
type way struct {
	etcd    *model
	process *process
	seed    uint64

	mu        sync.Mutex
	weather   weather
	endpoints [3]reachable
	at        int             // the endpoint that all requests go to
	moved     time.Time       // when they went there
	renewals  []time.Duration // when each keep-alive was sent, in exact weather
}

// A weather is how requests fare, each on its own. The figures are
// probabilities.
type weather struct {
	lost       float64       // the request does not arrive
	answerLost float64       // it does, and its answer does not
	late       float64       // it arrives late, often after its time-out
	lateRevoke float64       // the same for revokes alone
	doubled    float64       // it arrives twice
	slow       time.Duration // each direction takes up to this long

	exact bool // nothing is left to chance: an answer takes just as long as slow
	full  bool // transactions alone are refused
}

// An endpoint may be out of reach in three ways.
type reachable int

const (
	up       reachable = iota
	refused            // says so at once, and is not asked then
	silent             // takes requests and never answers
	isolated           // is cut off from the other members, and says so
)

// A fate is what becomes of one request.
type fate struct {
	refused, isolated, lost, answerLost bool
	to, fro                             time.Duration
	again                               time.Duration // it arrives a second time so much later; 0: it does not
}

var (
	errRefused  = status.Error(codes.Unavailable, "connection refused")
	errDead     = status.Error(codes.Unavailable, "the process is dead")
	errNoLeader = status.Error(codes.Unavailable, "etcdserver: no leader")
)

// dice returns the randomness of one thing at this instant. It does not depend
// on which of two goroutines asks first, and so a schedule repeats.
func (w *way) dice(of string) *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(of))
	return rand.New(rand.NewPCG(w.seed, h.Sum64()^uint64(time.Now().UnixNano())))
}

// pick returns the endpoint that requests go to: a connection moves on by itself
// from one that refuses. ok is false when all do. The caller holds mu.
func (w *way) pick() (e int, ok bool) {
	for i := range w.endpoints {
		e = (w.at + i) % len(w.endpoints)
		if w.endpoints[e] != refused {
			w.at = e
			return e, true
		}
	}
	return 0, false
}

// Unreachable implements route.
func (w *way) Unreachable() error { return nil }

// Failed implements route.
func (w *way) Failed(err error, begun time.Time) error {
	if err == nil || isAnswer(err) {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.moved.After(begun) {
		w.at, w.moved = (w.at+1)%len(w.endpoints), time.Now()
	}
	return err
}

// Version implements route.
func (w *way) Version(context.Context) (string, error) { return "3.7.3", nil }

// fate decides on the request what to endpoint e; -1 is any.
func (w *way) fate(what string, e int) fate {
	r := w.dice(what)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.weather.exact {
		if what == "keep-alive" {
			w.renewals = append(w.renewals, w.etcd.now())
		}
		return fate{fro: w.weather.slow, lost: w.weather.lost > 0}
	}
	latency := func() time.Duration {
		return 50*time.Microsecond + upTo(r, 3*time.Millisecond) + upTo(r, w.weather.slow)
	}
	chance := func(p float64) bool { return r.Float64() < p }
	f := fate{to: latency(), fro: latency()}
	if e < 0 {
		picked, ok := w.pick()
		f.refused, e = !ok, picked
	} else {
		f.refused = w.endpoints[e] == refused
	}
	f.isolated = w.endpoints[e] == isolated
	f.lost = chance(w.weather.lost) || w.endpoints[e] == silent
	f.answerLost = chance(w.weather.answerLost)
	if chance(w.weather.late) || what == "revoke" && chance(w.weather.lateRevoke) {
		f.to += upTo(r, 20*time.Second)
	}
	if chance(w.weather.doubled) {
		f.again = upTo(r, 10*time.Second)
	}
	return f
}

// upTo returns a random time below d.
func upTo(r *rand.Rand, d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(r.Int64N(int64(d)))
}

// jitter is the holder's, so that its retries too depend on the seed.
func (w *way) jitter(d time.Duration) time.Duration { return upTo(w.dice("jitter"), d) }

func (w *way) set(f func(w *way)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(w)
}

// An answer is what comes back.
type answer struct {
	resp any
	err  error
}

// request makes do run at etcd, as far as f lets it, and returns where the
// answer comes.
func (w *way) request(f fate, do func() (any, error)) chan answer {
	came := make(chan answer, 1)
	if f.lost {
		return came
	}
	arrive := func() (a answer) {
		if elected := w.etcd.lead(); elected != nil {
			<-elected
			retry.Sleep(context.Background(), f.to) // those that waited are not served at one instant
		}
		w.etcd.do(func() { a.resp, a.err = do() })
		return a
	}
	sidebyside.After(f.to, func() {
		a := arrive()
		w.process.arrived()
		if !f.answerLost {
			sidebyside.After(f.fro, func() { came <- a })
		}
	})
	if f.again > 0 {
		sidebyside.After(f.to+f.again, func() { arrive() })
	}
	return came
}

// await returns the answer when the process is awake to take it. If its
// time-out has come while it was stopped, either may be seen first.
func (w *way) await(ctx context.Context, came chan answer) (any, error) {
	var a answer
	answered := false
	select {
	case a = <-came:
		answered = true
	case <-ctx.Done():
	case <-w.process.dead:
	}
	if !w.process.awake() {
		return nil, errDead
	}
	if !answered {
		select {
		case a = <-came:
			answered = true
		default:
		}
	}
	if ctx.Err() != nil && !(answered && w.dice("coin").IntN(2) == 0) {
		return nil, ctx.Err()
	}
	return a.resp, a.err
}

// call makes one request and waits for its answer.
func call[T any](ctx context.Context, w *way, what string, do func() (T, error)) (resp T, err error) {
	if !w.process.awake() {
		return resp, errDead
	}
	f := w.fate(what, -1)
	if f.refused {
		retry.Sleep(ctx, f.to)
		return resp, errRefused
	}
	if f.isolated && !f.lost {
		retry.Sleep(ctx, f.to+f.fro)
		return resp, errNoLeader
	}
	got, err := w.await(ctx, w.request(f, func() (any, error) { return do() }))
	if err != nil {
		return resp, err
	}
	return got.(T), nil
}

// client returns the etcd client that goes this way.
func (w *way) client(ctx context.Context) *clientv3.Client {
	c := clientv3.NewCtxClient(ctx)
	c.KV = clientv3.NewKVFromKVClient(wayKV{w: w}, c)
	c.Lease = clientv3.NewLeaseFromLeaseClient(wayLeases{w: w}, c, time.Second)
	c.Watcher = wayWatcher{w: w}
	return c
}

type wayKV struct {
	pb.KVClient // the rest is not asked for
	w           *way
}

func (kv wayKV) Range(ctx context.Context, in *pb.RangeRequest, _ ...grpc.CallOption) (*pb.RangeResponse, error) {
	return call(ctx, kv.w, string(in.Key), func() (*pb.RangeResponse, error) { return kv.w.etcd.read(in), nil })
}

func (kv wayKV) Txn(ctx context.Context, in *pb.TxnRequest, _ ...grpc.CallOption) (*pb.TxnResponse, error) {
	kv.w.mu.Lock()
	full := kv.w.weather.full
	kv.w.mu.Unlock()
	if full {
		return nil, rpctypes.ErrGRPCNoSpace
	}
	return call(ctx, kv.w, about(in), func() (*pb.TxnResponse, error) { return kv.w.etcd.txn(in) })
}

// about tells apart the transactions that one process may send at one instant.
func about(in *pb.TxnRequest) string {
	what := "txn"
	for _, c := range in.Compare {
		what += string(c.Key)
	}
	for _, op := range in.Success {
		what += string(op.GetRequestPut().GetKey())
	}
	return what
}

func (kv wayKV) Put(ctx context.Context, in *pb.PutRequest, _ ...grpc.CallOption) (*pb.PutResponse, error) {
	resp, err := kv.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: in}}}})
	return &pb.PutResponse{Header: resp.GetHeader()}, err
}

func (kv wayKV) DeleteRange(ctx context.Context, in *pb.DeleteRangeRequest, _ ...grpc.CallOption) (*pb.DeleteRangeResponse, error) {
	resp, err := kv.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: in}}}})
	if err != nil {
		return nil, err
	}
	return &pb.DeleteRangeResponse{Header: resp.Header, Deleted: resp.Responses[0].GetResponseDeleteRange().Deleted}, nil
}

type wayLeases struct {
	pb.LeaseClient // the rest is not asked for
	w              *way
}

func (l wayLeases) LeaseGrant(ctx context.Context, in *pb.LeaseGrantRequest, _ ...grpc.CallOption) (*pb.LeaseGrantResponse, error) {
	return call(ctx, l.w, "grant", func() (*pb.LeaseGrantResponse, error) { return l.w.etcd.grant(in, l.w.process) })
}

func (l wayLeases) LeaseRevoke(ctx context.Context, in *pb.LeaseRevokeRequest, _ ...grpc.CallOption) (*pb.LeaseRevokeResponse, error) {
	return call(ctx, l.w, "revoke", func() (*pb.LeaseRevokeResponse, error) { return l.w.etcd.revoke(in) })
}

func (l wayLeases) LeaseTimeToLive(ctx context.Context, in *pb.LeaseTimeToLiveRequest, _ ...grpc.CallOption) (*pb.LeaseTimeToLiveResponse, error) {
	return call(ctx, l.w, "time to live", func() (*pb.LeaseTimeToLiveResponse, error) { return l.w.etcd.timeToLive(in), nil })
}

func (l wayLeases) LeaseKeepAlive(ctx context.Context, _ ...grpc.CallOption) (pb.Lease_LeaseKeepAliveClient, error) {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	e, ok := l.w.pick()
	if !ok {
		return nil, errRefused
	}
	return &wayStream{ctx: ctx, w: l.w, endpoint: e, came: make(chan answer, 100)}, nil
}

// A wayStream is one stream of keep-alives to one endpoint. Its answers carry
// no number: a late one is the next that is received.
type wayStream struct {
	grpc.ClientStream
	ctx      context.Context
	w        *way
	endpoint int
	came     chan answer
}

func (s *wayStream) Send(in *pb.LeaseKeepAliveRequest) error {
	if !s.w.process.awake() {
		return io.EOF
	}
	f := s.w.fate("keep-alive", s.endpoint)
	if f.refused {
		s.came <- answer{err: errRefused}
		return nil
	}
	if f.lost {
		return nil
	}
	if f.isolated {
		sidebyside.After(f.to+f.fro, func() { s.came <- answer{err: errNoLeader} })
		return nil
	}
	sidebyside.After(f.to, func() {
		a := s.w.keepAlive(in)
		s.w.process.arrived()
		if !f.answerLost {
			sidebyside.After(f.fro, func() { s.came <- a })
		}
	})
	return nil
}

// keepAlive is answered even by a leader that was deposed and does not know it.
func (w *way) keepAlive(in *pb.LeaseKeepAliveRequest) (a answer) {
	w.etcd.mu.Lock()
	elected, deposed := w.etcd.leader, w.etcd.deposed
	w.etcd.mu.Unlock()
	if elected != nil && !deposed {
		return answer{err: errNoLeader}
	}
	w.etcd.do(func() { a.resp = w.etcd.keepAlive(in) })
	return a
}

func (s *wayStream) Recv() (*pb.LeaseKeepAliveResponse, error) {
	resp, err := s.w.await(s.ctx, s.came)
	if err != nil {
		return nil, err
	}
	return resp.(*pb.LeaseKeepAliveResponse), nil
}

type wayWatcher struct {
	clientv3.Watcher // the rest is not asked for
	w                *way
}

// Watch tells of the deletions since the revision that is asked for: more is not made use
// of. Without a leader, it ends.
func (ww wayWatcher) Watch(ctx context.Context, key string, opts ...clientv3.OpOption) clientv3.WatchChan {
	events := make(chan clientv3.WatchResponse, 1)
	from := clientv3.OpGet(key, opts...).Rev()
	go func() {
		defer close(events)
		for found := ww.w.watch(ctx, from, key); found != nil && ww.w.process.awake(); found = ww.w.watch(ctx, from, key) {
			from = found.revision + 1
			select {
			case events <- clientv3.WatchResponse{Events: []*clientv3.Event{{
				Type: mvccpb.DELETE,
				Kv:   &mvccpb.KeyValue{Key: []byte(found.key), ModRevision: found.revision},
			}}}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return events
}

func (w *way) watch(ctx context.Context, from int64, prefix string) *deletion {
	for {
		found, news := w.etcd.deletedSince(from, prefix)
		if found == nil {
			select {
			case <-news:
				continue
			case <-w.process.dead:
			case <-ctx.Done():
			}
			return nil
		}
		// The watch is resumed as often as it takes.
		for {
			f := w.fate("watch", -1)
			if !retry.Sleep(ctx, f.to+f.fro) {
				return nil
			}
			if w.etcd.lead() != nil || f.isolated {
				return nil
			}
			if !f.refused && !f.lost && !f.answerLost && strings.HasPrefix(found.key, prefix) {
				return found
			}
			if !retry.Sleep(ctx, 500*time.Millisecond) {
				return nil
			}
		}
	}
}
