// stargz ROOT SOCKET: the lazily pulling snapshotter of Debian's golang-github-containerd-stargz-snapshotter-dev, served
// to containerd as containerd-stargz-grpc does, which Debian does not have. It fetches what is read, and nothing ahead.
package main

import (
	"context"
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/contrib/snapshotservice"
	"github.com/containerd/stargz-snapshotter/fs/config"
	"github.com/containerd/stargz-snapshotter/service"
	"google.golang.org/grpc"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: stargz ROOT SOCKET")
	}
	root, socket := os.Args[1], os.Args[2]
	onlyWhatIsRead := service.Config{Config: config.Config{NoPrefetch: true, NoBackgroundFetch: true, NoPrometheus: true}}
	snapshotter, err := service.NewStargzSnapshotterService(context.Background(), root, &onlyWhatIsRead)
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(snapshotter))
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-stop
		server.Stop()
	}()
	if err := server.Serve(listener); err != nil {
		log.Fatal(err)
	}
	// Unmounts what it serves.
	if err := snapshotter.Close(); err != nil {
		log.Fatal(err)
	}
}
