package membership

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/prefixproxy/prefixproxy/internal/devetcd/devetcdtest"
	"github.com/prefixproxy/prefixproxy/internal/retry"
)

func TestIsOld(t *testing.T) {
	for version, want := range map[string]bool{
		"3.3.27": true, "3.4.43": true, "3.4.44": false, "3.5.32": true, "3.5.33": false,
		"3.6.0": true, "3.6.13": true, "3.6.14": false, "3.7.0": true, "3.7.1": false, "3.8.0": false,
		"4.0.0": false, "3.5.27-rc.1": true, "not decided": false,
	} {
		if got := isOld(version); got != want {
			t.Errorf("etcd %s: got %v, want %v", version, got, want)
		}
	}
}

// A claim that was gone when ours began stands there again: etcd was restored, though with
// --bump-revision, and its term is not lower than it was.
func TestOlderClaimIsBack(t *testing.T) {
	resp := &clientv3.GetResponse{Header: &pb.ResponseHeader{Revision: 1_000_000}, Kvs: []*mvccpb.KeyValue{{CreateRevision: 5}}}
	for _, expired := range []bool{false, true} {
		s := &store{last: seen{revision: 10}}
		if got := s.stillOurs(t.Context(), &Claim{revision: 9}, resp, expired); got != DataLoss {
			t.Errorf("expired %v: got %v, want %v", expired, got, DataLoss)
		}
	}
}

// A fakeLeases answers on its first stream a second late, and on the others at
// once.
type fakeLeases struct {
	pb.LeaseClient
	streams int
}

type fakeStream struct {
	grpc.ClientStream
	ctx   context.Context
	delay time.Duration
}

func (f *fakeLeases) LeaseKeepAlive(ctx context.Context, _ ...grpc.CallOption) (pb.Lease_LeaseKeepAliveClient, error) {
	f.streams++
	s := &fakeStream{ctx: ctx}
	if f.streams == 1 {
		s.delay = time.Second
	}
	return s, nil
}

func (s *fakeStream) Send(*pb.LeaseKeepAliveRequest) error { return nil }

func (s *fakeStream) Recv() (*pb.LeaseKeepAliveResponse, error) {
	if !retry.Sleep(s.ctx, s.delay) {
		return nil, status.FromContextError(s.ctx.Err()).Err()
	}
	return &pb.LeaseKeepAliveResponse{TTL: 15}, nil
}

// A stream that owes an answer is thrown away: its late answer is not taken for
// that to the next request.
func TestRenewStreamThrowsAwayWhatOwes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leases := &fakeLeases{}
		r := renewStream{client: leases}
		defer r.close()
		renew := func() (time.Duration, error) {
			ctx, cancel := context.WithTimeout(t.Context(), 900*time.Millisecond)
			defer cancel()
			begin := time.Now()
			_, err := r.renew(ctx, 1, func() {})
			return time.Since(begin), err
		}
		if d, err := renew(); !errors.Is(err, context.DeadlineExceeded) || d != 900*time.Millisecond {
			t.Errorf("late answer: got %v after %v, want a time-out after 900ms", err, d)
		}
		for range 2 {
			if d, err := renew(); err != nil || d != 0 {
				t.Errorf("next answer: got %v after %v, want none at once", err, d)
			}
		}
		if leases.streams != 2 {
			t.Errorf("streams opened: got %d, want 2", leases.streams)
		}
	})
}

// Etcd has lost data, or is another one, when what never runs backwards does.
func TestSaw(t *testing.T) {
	t.Parallel()
	first := &pb.ResponseHeader{ClusterId: 1, MemberId: 2, RaftTerm: 5, Revision: 100}
	for name, test := range map[string]struct {
		next *pb.ResponseHeader
		want error
	}{
		"the same":                        {&pb.ResponseHeader{ClusterId: 1, MemberId: 2, RaftTerm: 5, Revision: 100}, nil},
		"later":                           {&pb.ResponseHeader{ClusterId: 1, MemberId: 3, RaftTerm: 6, Revision: 101}, nil},
		"an older revision":               {&pb.ResponseHeader{ClusterId: 1, MemberId: 2, RaftTerm: 5, Revision: 99}, DataLoss},
		"another cluster":                 {&pb.ResponseHeader{ClusterId: 9, MemberId: 2, RaftTerm: 5, Revision: 1e9}, DataLoss},
		"restored with --bump-revision":   {&pb.ResponseHeader{ClusterId: 1, MemberId: 2, RaftTerm: 2, Revision: 1e9}, DataLoss},
		"restored, and by another member": {&pb.ResponseHeader{ClusterId: 1, MemberId: 3, RaftTerm: 1, Revision: 1e9}, DataLoss},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := storeOf(newClient(t, sharedEtcd), testConfig(t))
			if err := s.saw(t.Context(), first); err != nil {
				t.Fatal(err)
			}
			if got := s.saw(t.Context(), test.next); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

// Nor does it matter that its database is full.
func TestSawAFullEtcd(t *testing.T) {
	t.Parallel()
	c := newClient(t, devetcdtest.Start(t))
	if _, err := pb.NewMaintenanceClient(c.ActiveConnection()).Alarm(t.Context(), &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, Alarm: pb.AlarmType_NOSPACE}); err != nil {
		t.Fatal(err)
	}
	s := storeOf(c, testConfig(t))
	if err := s.saw(t.Context(), &pb.ResponseHeader{MemberId: 2, RaftTerm: 100}); err != nil {
		t.Fatal(err)
	}
	if got := s.saw(t.Context(), &pb.ResponseHeader{MemberId: 3, RaftTerm: 1}); got != DataLoss {
		t.Errorf("got %v, want %v", got, DataLoss)
	}
}

// A member that has caught up by a snapshot names an older term than it knows.
func TestSawALaggingMember(t *testing.T) {
	t.Parallel()
	c := newClient(t, sharedEtcd)
	s := storeOf(c, testConfig(t))
	now := termOf(t, c)
	for _, h := range []*pb.ResponseHeader{{MemberId: 1, RaftTerm: now}, {MemberId: 2, RaftTerm: now - 1}} {
		if err := s.saw(t.Context(), h); err != nil {
			t.Errorf("member %d of term %d: %v", h.MemberId, h.RaftTerm, err)
		}
	}
}
