package pool_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/prefixproxy/prefixproxy/internal/devetcd"
	"github.com/prefixproxy/prefixproxy/membership"
	"github.com/prefixproxy/prefixproxy/membership/etcd"
	"github.com/prefixproxy/prefixproxy/membership/pool"
)

func ExampleLook() {
	dir, err := os.MkdirTemp("", "pool")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	server, err := devetcd.Start(dir)
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	client, err := etcd.New(etcd.Config{Endpoints: []string{server.Endpoint()}})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	cfg := membership.DefaultConfig()
	cfg.Owner = "foo-ns31"
	holder, err := membership.NewHolder(client, cfg, nil, nil)
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	changed := holder.Changed()
	go func() { ended <- holder.Run(ctx) }()
	<-changed

	view, err := pool.Look(ctx, client, cfg.Pool)
	if err != nil {
		log.Fatal(err)
	}
	for name, h := range view.Held {
		fmt.Println(name, h.Owner)
	}
	fmt.Println(len(cfg.Names)-len(view.Held), "free")

	stop()
	<-ended
	// Output:
	// Denali foo-ns31
	// 99 free
}
