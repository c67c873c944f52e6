# A static binary, the CA certificates, and a state directory that the user of
# the process owns; nothing else.
#
#   docker build --build-arg VERSION=v1.2.3 -t prefixproxy .
#   docker run --network host -v ./config.yaml:/etc/prefixproxy/config.yaml:ro -v prefixproxy:/var/lib/prefixproxy -v prefixproxy-queue:/run/prefixproxy-queue prefixproxy
#
# docker kill -s HUP makes it reread its configuration.

FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY cmd cmd
COPY internal internal
COPY membership membership
COPY proxy proxy
ARG VERSION=devel
# One line: .ci/run builds by this very line, without a container.
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /out/prefixproxy ./cmd/prefixproxy
RUN install -d -m 0700 /out/root/var/lib/prefixproxy /out/root/run/prefixproxy-queue && install -d /out/root/run/prefixproxy && install -d -m 1777 /out/root/tmp

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build --chown=65532:65532 /out/root/ /
COPY --from=build /out/prefixproxy /
USER 65532:65532
# Carbon's queue is in the second; it survives a container that was killed.
ENV RUNTIME_DIRECTORY=/run/prefixproxy:/run/prefixproxy-queue
VOLUME /var/lib/prefixproxy /run/prefixproxy-queue
EXPOSE 8125/udp 8125/tcp 2003/tcp 2003/udp 8127/tcp
ENTRYPOINT ["/prefixproxy"]
CMD ["run", "--config", "/etc/prefixproxy/config.yaml"]
