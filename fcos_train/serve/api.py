"""The HTTP interface: ``POST /predict``, ``/health``, and the page ``/docs``, made of files of this machine alone."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from fcos_train import __version__
from fcos_train.serve.answer import chosen, document, labels_of
from fcos_train.serve.limits import Refused
from fcos_train.serve.service import Service
from mmcv_overrides.errors import UserError
from mmcv_overrides.printable import printable

_log = logging.getLogger(__name__)
BODY_SECONDS = 60  # a client that sends more slowly is refused, so that it keeps no place
_IMAGE = {"type": "string", "format": "binary", "description": "an image file"}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "required": ["file"], "properties": {"file": _IMAGE}},
            },
            "application/octet-stream": {"schema": _IMAGE},
        },
    }
}


class Fault(BaseModel):
    """Every answer with a status of 4xx or 5xx."""

    detail: str


class Picture(BaseModel):
    """The image that was sent."""

    id: int
    file_name: str
    width: int
    height: int


class Category(BaseModel):
    """A class of the model."""

    id: int
    name: str


class Annotation(BaseModel):
    """A detected object; ``bbox`` is x, y, width, height in pixels."""

    id: int
    image_id: int
    category_id: int
    category_name: str
    bbox: tuple[float, float, float, float]
    area: float
    iscrowd: int
    score: float


class Document(BaseModel):
    """Detections in COCO's format, the highest score first."""

    info: dict[str, Any]
    images: list[Picture]
    categories: list[Category]
    annotations: list[Annotation]


class Health(BaseModel):
    """State of the server; ``answered`` counts images since its start, ``waiting`` requests in progress."""

    status: str
    model: str
    device: str
    classes: list[str]
    answered: int
    waiting: int
    version: str


_FAULTS: dict[int | str, dict[str, Any]] = {
    status: {"model": Fault, "description": text}
    for status, text in {
        400: "damaged or absent image",
        401: "no token, or a wrong one",
        408: "the request arrives too slowly",
        413: "too many bytes or pixels",
        415: "not an image",
        422: "a wrong parameter",
        503: "too many requests at once",
    }.items()
}


def add_interface(app: FastAPI, service: Service, score_thr: float) -> None:
    """Add ``/predict``, ``/health`` and the answers to errors.

    Args:
        score_thr: of requests that give none.
    """

    @app.post("/predict", response_model=Document, responses=_FAULTS, openapi_extra=_BODY, summary="Detect objects")
    async def predict(
        request: Request,
        score_thr: Annotated[
            float, Query(ge=0, le=1, allow_inf_nan=False, description="smallest score of a detection")
        ] = score_thr,
        classes: Annotated[
            list[str] | None, Query(description="names of classes; repeat it for several; absent: all")
        ] = None,
    ) -> JSONResponse:
        """Detect the objects of one image: a form with a `file`, or the bytes of the file alone."""
        labels = labels_of(classes or (), service.classes)
        with service.place():
            name, data = await _file_of(request)
            answer = await run_in_threadpool(service.answer, data)
        found = chosen(answer.found, score_thr, labels)
        return JSONResponse(document([(name, answer, found)], service.classes))

    @app.get("/health", response_model=Health, summary="State of the server")
    async def health() -> Health:
        """Whether it answers, and with which model."""
        return Health(
            status="ok",
            model=service.name,
            device=service.device,
            classes=list(service.classes),
            answered=service.answered,
            waiting=service.waiting,
            version=__version__,
        )

    _answer_errors(app)


async def _file_of(request: Request) -> tuple[str, bytes]:
    """Name and content of the image of a request.

    Raises:
        Refused: a form without exactly one file, or one that arrives too slowly.
    """
    try:
        async with asyncio.timeout(BODY_SECONDS):
            if not request.headers.get("content-type", "").lower().startswith("multipart/"):
                return "", await request.body()
            async with request.form(max_files=8, max_fields=8) as form:
                files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
                if len(files) != 1:
                    raise Refused(400, f"The form has {len(files) or 'no'} files; send one image in the field file.")
                return printable(files[0].filename or "")[:255], await files[0].read()
    except TimeoutError:
        raise Refused(408, f"The request did not arrive within {BODY_SECONDS} s.") from None


def _answer_errors(app: FastAPI) -> None:
    """Each error is one sentence in ``detail``."""

    def sentence(status: int, text: str) -> JSONResponse:
        return JSONResponse({"detail": text}, status, {"Retry-After": "1"} if status == 503 else None)

    @app.exception_handler(UserError)
    async def refused(_: Request, error: UserError) -> JSONResponse:
        return sentence(getattr(error, "status", 400), printable(str(error)))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        faults = [f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors()]
        return sentence(422, f"Wrong parameter {'; '.join(faults)}.")

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        path = printable(request.url.path)[:200]
        texts = {404: f"There is no {path}; /docs lists what there is.", 405: f"{path} does not take {request.method}."}
        return sentence(error.status_code, texts.get(error.status_code, printable(str(error.detail))))

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        return sentence(500, "The model failed on this image; the log of the server has the reason.")
