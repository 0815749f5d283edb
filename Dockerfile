# The one binary. Build with `docker build -t entrepot .`; docker-compose.regions.yml does.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin entrepot

FROM debian:bookworm-slim
# The load balancer's follower runs as the user that HAProxy runs as (99).
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 entrepot \
    && install -d -o entrepot /var/lib/entrepot \
    && install -d -o 99 -g 99 /var/lib/routing
COPY --from=build /src/target/release/entrepot /usr/local/bin/entrepot
USER entrepot
ENTRYPOINT ["entrepot"]
