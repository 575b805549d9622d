page=http://127.0.0.1:7860/gradio_api
film=$(curl -sf -F files=@film.png $page/upload | tr -d '[]"')
call=$(curl -sf $page/call/predict -H 'Content-Type: application/json' \
  -d '{"data": [{"path": "'"$film"'", "meta": {"_type": "gradio.FileData"}}]}' | cut -d '"' -f 4)
curl -sf $page/call/predict/$call | sed -n 's/^data: //p'
