package etcd

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// A restored etcd keeps who comes with a token from before waiting for as long as they like. It has
// a new login in the end; an etcd that is slow has none.
func TestTokenFromBeforeARestore(t *testing.T) {
	for name, answersAgain := range map[string]time.Duration{"restored": time.Hour, "slow": tokenPatience - 5*time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				connector, err := newConnector([]string{"127.0.0.1:1"}, nil)
				if err != nil {
					t.Fatal(err)
				}
				users := &users{}
				l := newLogin("prefixproxy", func() (string, error) { return "p", nil }, connector)
				l.auth, l.ctx = users, t.Context()
				var silentUntil time.Time // to the first token
				request := func() error {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					defer cancel()
					return l.unary(ctx, pb.KV_Range_FullMethodName, nil, nil, nil, func(ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
						if md, _ := metadata.FromOutgoingContext(ctx); time.Now().Before(silentUntil) && md.Get(rpctypes.TokenFieldNameGRPC)[0] == "1" {
							<-ctx.Done()
							return ctx.Err()
						}
						return nil
					})
				}
				if err := request(); err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				silentUntil = began.Add(answersAgain)
				for request() != nil {
					if time.Since(began) > tokenPatience+5*time.Second {
						t.Fatal("the token is kept")
					}
				}
				if want := map[bool]int{false: 1, true: 2}[name == "restored"]; users.logins != want {
					t.Errorf("%d logins, want %d", users.logins, want)
				}
			})
		})
	}
}

// users is an etcd whose n-th token is n.
type users struct {
	pb.AuthClient
	logins int
}

func (u *users) Authenticate(context.Context, *pb.AuthenticateRequest, ...grpc.CallOption) (*pb.AuthenticateResponse, error) {
	u.logins++
	return &pb.AuthenticateResponse{Token: string(rune('0' + u.logins))}, nil
}
