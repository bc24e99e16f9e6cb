# The image is the static binary and an empty data directory: nothing is pulled.
# `make image` builds it from the folder bin/image.
FROM scratch
COPY scope-registry /scope-registry
# A named volume takes owner and mode from the directory it is mounted over:
# without this one it would belong to root, and the server could not write.
COPY --chown=65532:65532 data /data
USER 65532:65532
VOLUME /data
EXPOSE 7480 7481 7482
ENV SCOPE_REGISTRY_DATA_DIR=/data
ENTRYPOINT ["/scope-registry"]
CMD ["serve"]
